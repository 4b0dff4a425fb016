//! The checkpoint in LMDB, through heed.

use std::ops::{Bound, ControlFlow};
use std::path::Path;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use bytes::Bytes;
use heed::types::Bytes as RawBytes;
use heed::{CommitOrAbort, Database, Env, EnvOpenOptions, MdbError, RoTxn, WithoutTls};

use super::disk::Visit;
use super::{CheckpointSnapshot, CheckpointStore, Keyspace, Overlay, StorageError, sealed};

/// The database of the store itself, beside those of the keyspaces.
const STORE_DATABASE_NAME: &str = "store";
const METADATA_KEY: &[u8] = b"metadata";

/// LMDB's reader table has one slot for each read transaction that is open at the same time.
const MAXIMUM_READERS: u32 = 1024;

/// How much larger the map becomes when it is full.
const MAP_GROWTH_FACTOR: usize = 2;

type Table = Database<'static, RawBytes, RawBytes>;

/// A [`CheckpointStore`] in an LMDB environment.
pub struct HeedCheckpoint {
    environment: Env<WithoutTls>,
    store_table: Table,
    keyspace_tables: [Table; Keyspace::ALL.len()],
    /// Transactions hold it shared, because LMDB may only be resized when there are none.
    resize_gate: RwLock<()>,
}

fn failed(operation: &'static str) -> impl FnOnce(heed::Error) -> StorageError {
    move |source| StorageError::Checkpoint { operation, source }
}

impl HeedCheckpoint {
    /// Opens or creates the environment in this directory, which must exist and be locked by this process.
    /// The map is virtual memory; it grows when it is full.
    pub fn open(directory: &Path, map_size_bytes: usize) -> Result<HeedCheckpoint, StorageError> {
        let mut options = EnvOpenOptions::new().read_txn_without_tls();
        options.map_size(map_size_bytes).max_readers(MAXIMUM_READERS).max_dbs(Keyspace::ALL.len() as u32 + 1);
        // SAFETY: the lock of the data directory keeps every other process away from the mapped file, and this
        // process changes it only through LMDB.
        let environment = unsafe { options.open(directory) }.map_err(failed("be opened"))?;
        let transaction = environment.write_txn().map_err(failed("begin a transaction"))?;
        let tables = environment
            .create_databases_and_commit(transaction, |opener, transaction| {
                let mut tables = Vec::with_capacity(Keyspace::ALL.len());
                for keyspace in Keyspace::ALL {
                    tables.push(opener.create_database(transaction, Some(keyspace.name()))?);
                }
                let keyspace_tables: [Database<'_, RawBytes, RawBytes>; Keyspace::ALL.len()] =
                    tables.try_into().expect("one table for each keyspace");
                let store_table = opener.create_database(transaction, Some(STORE_DATABASE_NAME))?;
                Ok(CommitOrAbort::<_, ()>::Commit((store_table, keyspace_tables)))
            })
            .map_err(failed("create its databases"))?;
        let (store_table, keyspace_tables) = tables.unwrap_commit();
        Ok(HeedCheckpoint { environment, store_table, keyspace_tables, resize_gate: RwLock::new(()) })
    }

    fn table(&self, keyspace: Keyspace) -> &Table {
        &self.keyspace_tables[keyspace.index()]
    }

    fn read(&self) -> Result<HeedSnapshot<'_>, StorageError> {
        let gate = self.resize_gate.read().unwrap_or_else(PoisonError::into_inner);
        let transaction = self.environment.read_txn().map_err(failed("begin a transaction"))?;
        Ok(HeedSnapshot { checkpoint: self, transaction, _gate: gate })
    }

    fn try_apply(&self, changes: &Overlay, metadata: &[u8]) -> Result<(), heed::Error> {
        let _gate = self.resize_gate.read().unwrap_or_else(PoisonError::into_inner);
        let mut transaction = self.environment.write_txn()?;
        let mut buffer = Vec::new();
        for (keyspace, key, value) in changes.iter() {
            let table = self.table(keyspace);
            match value {
                Some(value) => {
                    sealed::seal(&mut buffer, keyspace, key, value);
                    table.put(&mut transaction, key, &buffer)?;
                }
                None => {
                    table.delete(&mut transaction, key)?;
                }
            }
        }
        self.store_table.put(&mut transaction, METADATA_KEY, metadata)?;
        transaction.commit()
    }

    fn grow(&self) -> Result<(), StorageError> {
        let _gate = self.resize_gate.write().unwrap_or_else(PoisonError::into_inner);
        let map_size_bytes = self.environment.info().map_size.saturating_mul(MAP_GROWTH_FACTOR);
        tracing::debug!(map_size_bytes, "the checkpoint grows its map");
        // SAFETY: every transaction of this environment holds the gate shared, and it is held alone here.
        unsafe { self.environment.resize(map_size_bytes) }.map_err(failed("grow its map"))
    }
}

impl CheckpointStore for HeedCheckpoint {
    fn metadata(&self) -> Result<Option<Vec<u8>>, StorageError> {
        let snapshot = self.read()?;
        let metadata =
            self.store_table.get(&snapshot.transaction, METADATA_KEY).map_err(failed("read its metadata"))?;
        Ok(metadata.map(<[u8]>::to_vec))
    }

    fn apply(&self, changes: &Overlay, metadata: &[u8]) -> Result<(), StorageError> {
        loop {
            match self.try_apply(changes, metadata) {
                // Nothing was written, so this is no retry of a sync.
                Err(heed::Error::Mdb(MdbError::MapFull)) => self.grow()?,
                result => return result.map_err(failed("be written")),
            }
        }
    }

    fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        let snapshot = self.read()?;
        let sealed = self.table(keyspace).get(&snapshot.transaction, key).map_err(failed("read a value"))?;
        Ok(sealed.map(Bytes::copy_from_slice))
    }

    fn snapshot(&self) -> Result<Box<dyn CheckpointSnapshot + '_>, StorageError> {
        Ok(Box::new(self.read()?))
    }
}

/// A read transaction.
struct HeedSnapshot<'a> {
    checkpoint: &'a HeedCheckpoint,
    // Fields drop in order: the transaction ends before the gate opens.
    transaction: RoTxn<'a, WithoutTls>,
    _gate: RwLockReadGuard<'a, ()>,
}

impl CheckpointSnapshot for HeedSnapshot<'_> {
    fn scan(&self, keyspace: Keyspace, start: &[u8], visit: &mut Visit<'_>) -> Result<(), StorageError> {
        // LMDB has no empty keys; as a bound it would be refused.
        let lower = if start.is_empty() { Bound::Unbounded } else { Bound::Included(start) };
        let table = self.checkpoint.table(keyspace);
        let entries = table
            .range(&self.transaction, &(lower, Bound::<&[u8]>::Unbounded))
            .map_err(failed("begin a scan"))?;
        for entry in entries {
            let (key, sealed) = entry.map_err(failed("scan"))?;
            if let ControlFlow::Break(()) = visit(key, sealed)? {
                break;
            }
        }
        Ok(())
    }
}
