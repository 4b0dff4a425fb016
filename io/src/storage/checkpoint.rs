//! The checkpoint in LMDB, through heed.

use std::fs::File;
use std::ops::{Bound, ControlFlow};
use std::path::Path;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use bytes::Bytes;
use heed::types::Bytes as RawBytes;
use heed::{CommitOrAbort, Database, Env, EnvOpenOptions, MdbError, RoTxn, WithoutTls};

use super::disk::Visit;
use super::residency::{Map, Residency};
use super::sealed::{SEALED_HEADER_BYTES, seal};
use super::{Change, CheckpointSnapshot, CheckpointStore, Keyspace, StorageError};

/// The database of the store itself, beside those of the keyspaces.
const STORE_DATABASE_NAME: &str = "store";
const METADATA_KEY: &[u8] = b"metadata";

/// What LMDB names its file.
const DATA_NAME: &str = "data.mdb";

/// LMDB's reader table has one slot for each read transaction that is open at the same time.
const MAXIMUM_READERS: u32 = 1024;

/// How much larger the map becomes when it is full.
const MAP_GROWTH_FACTOR: usize = 2;

type Table = Database<'static, RawBytes, RawBytes>;

/// A [`CheckpointStore`] in an LMDB environment.
pub struct HeedCheckpoint {
    environment: Env<WithoutTls>,
    /// LMDB's own: the names of the others.
    names: Table,
    store_table: Table,
    keyspace_tables: [Table; Keyspace::ALL.len()],
    /// Where the file is mapped, if that is known. Transactions hold it shared, because LMDB may only be resized when
    /// there are none, and moves the map then.
    map: RwLock<Option<Map>>,
    residency: Residency,
}

fn failed(operation: &'static str) -> impl FnOnce(heed::Error) -> StorageError {
    move |source| StorageError::Checkpoint { operation, source }
}

impl HeedCheckpoint {
    /// Opens or creates the environment in this directory, which must exist and be locked by this process.
    /// The map is virtual memory; it grows when it is full. About `resident_bytes` of it are kept in memory.
    pub fn open(
        directory: &Path,
        map_size_bytes: usize,
        resident_bytes: u64,
    ) -> Result<HeedCheckpoint, StorageError> {
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
                let names = opener.create_database(transaction, None)?;
                Ok(CommitOrAbort::<_, ()>::Commit((names, store_table, keyspace_tables)))
            })
            .map_err(failed("create its databases"))?;
        let (names, store_table, keyspace_tables) = tables.unwrap_commit();
        let map = RwLock::new(find_map(&environment, &names)?);
        let file = File::open(directory.join(DATA_NAME)).map_err(StorageError::io("open the checkpoint"))?;
        let residency = Residency::new(file, resident_bytes);
        Ok(HeedCheckpoint { environment, names, store_table, keyspace_tables, map, residency })
    }

    fn table(&self, keyspace: Keyspace) -> &Table {
        &self.keyspace_tables[keyspace.index()]
    }

    fn read(&self) -> Result<HeedSnapshot<'_>, StorageError> {
        let map = self.map.read().unwrap_or_else(PoisonError::into_inner);
        let transaction = self.environment.read_txn().map_err(failed("begin a transaction"))?;
        Ok(HeedSnapshot { checkpoint: self, transaction, map })
    }

    fn try_apply(&self, changes: &[Change<'_>], metadata: Option<&[u8]>) -> Result<(), heed::Error> {
        let map = self.map.read().unwrap_or_else(PoisonError::into_inner);
        let mut transaction = self.environment.write_txn()?;
        for Change { keyspace, key, value } in changes.iter().copied() {
            let table = self.table(keyspace);
            match value {
                Some(value) => {
                    let sealed_bytes = SEALED_HEADER_BYTES + value.len();
                    table.put_reserved(&mut transaction, key, sealed_bytes, |space| {
                        seal(space, keyspace, key, value)
                    })?;
                }
                None => {
                    table.delete(&mut transaction, key)?;
                }
            }
            // What is written does not go through the map, but the way to its place does.
            self.touch(&map);
        }
        if let Some(metadata) = metadata {
            self.store_table.put(&mut transaction, METADATA_KEY, metadata)?;
        }
        transaction.commit()
    }

    /// Call this after reading or writing a value.
    fn touch(&self, map: &RwLockReadGuard<'_, Option<Map>>) {
        if let Some(map) = &**map {
            self.residency.touch(map);
        }
    }

    fn grow(&self) -> Result<(), StorageError> {
        let mut map = self.map.write().unwrap_or_else(PoisonError::into_inner);
        let map_size_bytes = self.environment.info().map_size.saturating_mul(MAP_GROWTH_FACTOR);
        tracing::debug!(map_size_bytes, "the checkpoint grows its map");
        *map = None;
        // SAFETY: every transaction of this environment holds the lock shared, and it is held alone here.
        unsafe { self.environment.resize(map_size_bytes) }.map_err(failed("grow its map"))?;
        *map = find_map(&self.environment, &self.names)?;
        Ok(())
    }
}

/// Where the file is mapped, if the operating system tells.
fn find_map(environment: &Env<WithoutTls>, names: &Table) -> Result<Option<Map>, StorageError> {
    let transaction = environment.read_txn().map_err(failed("begin a transaction"))?;
    let first = names.first(&transaction).map_err(failed("read the names of its databases"))?;
    // LMDB returns references into the map. It is only read, because MDB_WRITEMAP is nowhere set.
    Ok(first.and_then(|(name, _)| Map::around(name)))
}

impl CheckpointStore for HeedCheckpoint {
    fn metadata(&self) -> Result<Option<Vec<u8>>, StorageError> {
        let snapshot = self.read()?;
        let metadata =
            self.store_table.get(&snapshot.transaction, METADATA_KEY).map_err(failed("read its metadata"))?;
        Ok(metadata.map(<[u8]>::to_vec))
    }

    fn apply(&self, changes: &[Change<'_>], metadata: Option<&[u8]>) -> Result<(), StorageError> {
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
        let sealed = sealed.map(|sealed| match snapshot.read_large(sealed)? {
            Some(sealed) => Ok(Bytes::from(sealed)),
            None => Ok(Bytes::copy_from_slice(sealed)),
        });
        self.touch(&snapshot.map);
        sealed.transpose()
    }

    fn snapshot(&self) -> Result<Box<dyn CheckpointSnapshot + '_>, StorageError> {
        Ok(Box::new(self.read()?))
    }
}

/// A read transaction.
struct HeedSnapshot<'a> {
    checkpoint: &'a HeedCheckpoint,
    // Fields drop in order: the transaction ends before the map may move.
    transaction: RoTxn<'a, WithoutTls>,
    map: RwLockReadGuard<'a, Option<Map>>,
}

impl HeedSnapshot<'_> {
    /// Reads a value of this transaction from the file, if it is large. Nothing overwrites it there before the
    /// transaction ends.
    fn read_large(&self, sealed: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        let Some(map) = &*self.map else { return Ok(None) };
        let read = self.checkpoint.residency.read_large(map, sealed);
        read.map_err(StorageError::io("read a value of the checkpoint"))
    }
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
            let flow = match self.read_large(sealed)? {
                Some(sealed) => visit(key, &sealed)?,
                None => visit(key, sealed)?,
            };
            self.checkpoint.touch(&self.map);
            if let ControlFlow::Break(()) = flow {
                break;
            }
        }
        Ok(())
    }
}
