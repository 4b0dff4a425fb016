//! The checkpoint in LMDB, through heed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, ErrorKind, Write as _};
use std::ops::{Bound, ControlFlow};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard};

use bytes::Bytes;
use heed::types::Bytes as RawBytes;
use heed::{CommitOrAbort, Database, Env, EnvOpenOptions, MdbError, RoTxn, RwTxn, WithoutTls};

use super::digest::{
    CHAIN_BYTES, DIGESTS_PREFIX, Digest, DigestChanges, ROOT_KEY, digest_key, entry_hash, parse_digest_key,
    prefix, root_of,
};
use super::disk::Visit;
use super::error::Incomplete;
use super::error::is_no_room;
use super::real::system;
use super::residency::{Map, Residency};
use super::sealed::{SEALED_HEADER_BYTES, sealed_header};
use super::{Change, CheckpointSnapshot, CheckpointStore, FORMAT_VERSION_MIN, Keyspace, StorageError};
use crate::signals::{self, WithinLmdb};

/// The database of the store itself, beside those of the keyspaces.
const STORE_DATABASE_NAME: &str = "store";
const METADATA_KEY: &[u8] = b"metadata";

/// What LMDB names its file.
pub(super) const DATA_NAME: &str = "data.mdb";

/// LMDB's reader table has one slot for each read transaction that is open at the same time.
const MAXIMUM_READERS: u32 = 1024;

/// How much larger the map becomes when it is full.
const MAP_GROWTH_FACTOR: usize = 2;

/// How much room the file keeps beyond its end, so that a disk that others fill does not keep deletes from being written.
const RESERVE_BYTES: u64 = 4 * 1024 * 1024;

type Table = Database<'static, RawBytes, RawBytes>;

/// A [`CheckpointStore`] in an LMDB environment.
pub struct HeedCheckpoint {
    /// See [`CheckpointStore::damaged`].
    damaged: Mutex<BTreeMap<u32, String>>,
    environment: Env<WithoutTls>,
    /// LMDB's own: the names of the others.
    names: Table,
    store_table: Table,
    keyspace_tables: [Table; Keyspace::ALL.len()],
    /// Where the file is mapped, if that is known. Transactions hold it shared, because LMDB may only be resized when
    /// there are none, and moves the map then.
    map: RwLock<Option<Map>>,
    residency: Residency,
    file: File,
    /// Up to where the file has room.
    reserved_until: AtomicU64,
}

/// What is hashed of a sealed value.
fn head(sealed: &[u8]) -> [u8; SEALED_HEADER_BYTES] {
    let mut head = [0; SEALED_HEADER_BYTES];
    let length = sealed.len().min(SEALED_HEADER_BYTES);
    head[..length].copy_from_slice(&sealed[..length]);
    head
}

/// Why changes were not applied.
enum Unapplied {
    Lmdb(heed::Error),
    Damaged(StorageError),
}

impl From<heed::Error> for Unapplied {
    fn from(error: heed::Error) -> Self {
        Unapplied::Lmdb(error)
    }
}

impl From<StorageError> for Unapplied {
    fn from(error: StorageError) -> Self {
        Unapplied::Damaged(error)
    }
}

impl From<Unapplied> for StorageError {
    fn from(error: Unapplied) -> Self {
        match error {
            Unapplied::Lmdb(error) => failed("be read")(error),
            Unapplied::Damaged(error) => error,
        }
    }
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
        let missing_bytes = make_whole(&directory.join(DATA_NAME))?;
        let _within = WithinLmdb::enter();
        // Until it is known where the map is, it may be anywhere.
        signals::note_map(0, usize::MAX);
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
        let file = File::options()
            .read(true)
            .write(true)
            .open(directory.join(DATA_NAME))
            .map_err(StorageError::io("open the checkpoint"))?;
        let copy = file.try_clone().map_err(StorageError::io("open the checkpoint"))?;
        let residency = Residency::new(copy, resident_bytes);
        let reserved_until = AtomicU64::new(0);
        let checkpoint = HeedCheckpoint {
            damaged: Mutex::default(),
            environment,
            names,
            store_table,
            keyspace_tables,
            map,
            residency,
            file,
            reserved_until,
        };
        if missing_bytes > 0 {
            checkpoint.check_nothing_is_missing(missing_bytes)?;
        }
        checkpoint.note_damage()?;
        Ok(checkpoint)
    }

    /// An error if something is missing, now that the file has so many zeros at its end.
    fn check_nothing_is_missing(&self, bytes: u64) -> Result<(), StorageError> {
        match self.differing(true) {
            Ok(differing) if differing.is_empty() => Ok(()),
            _ => {
                tracing::error!("data.mdb was {bytes} bytes shorter than it says");
                Err(StorageError::CorruptMetadata {
                    reason: "data.mdb is shorter than it says, and what was there is missing",
                })
            }
        }
    }

    /// Note which chains are not whole.
    fn note_damage(&self) -> Result<(), StorageError> {
        for incomplete in self.differing(false)? {
            // What belongs to no chain concerns them all.
            let Some(chain) = incomplete.chain() else { return Err(incomplete.into()) };
            let mut damaged = self.damaged.lock().unwrap_or_else(PoisonError::into_inner);
            damaged.entry(chain).or_insert_with(|| incomplete.to_string());
        }
        Ok(())
    }

    fn table(&self, keyspace: Keyspace) -> &Table {
        &self.keyspace_tables[keyspace.index()]
    }

    fn read(&self) -> Result<HeedSnapshot<'_>, StorageError> {
        let within = WithinLmdb::enter();
        let map = self.map.read().unwrap_or_else(PoisonError::into_inner);
        let transaction = self.environment.read_txn().map_err(failed("begin a transaction"))?;
        Ok(HeedSnapshot { checkpoint: self, transaction, map, _within: within })
    }

    fn try_apply(&self, changes: &[Change<'_>], metadata: Option<&[u8]>) -> Result<(), Unapplied> {
        let _within = WithinLmdb::enter();
        let map = self.map.read().unwrap_or_else(PoisonError::into_inner);
        let mut transaction = self.environment.write_txn()?;
        let mut root = match self.store_table.get(&transaction, ROOT_KEY)? {
            Some(root) => Digest::decode_root(root)?,
            None => self.adopt(&mut transaction)?,
        };
        let mut digests = DigestChanges::default();
        for Change { keyspace, key, value } in changes.iter().copied() {
            let table = self.table(keyspace);
            let is_counted = prefix(keyspace, key).is_some();
            let old = if is_counted { table.get(&transaction, key)?.map(head) } else { None };
            let new = value.map(|value| sealed_header(keyspace, key, value));
            match value.zip(new) {
                Some((value, header)) => {
                    let sealed_bytes = SEALED_HEADER_BYTES + value.len();
                    table.put_reserved(&mut transaction, key, sealed_bytes, |space| {
                        space.write_all(&header)?;
                        space.write_all(value)
                    })?;
                }
                None => {
                    table.delete(&mut transaction, key)?;
                }
            }
            digests.note(keyspace, key, old.as_ref().map(|it| &it[..]), new.as_ref().map(|it| &it[..]));
            // What is written does not go through the map, but the way to its place does.
            self.touch(&map);
        }
        let stored = |key: &[u8]| match self.store_table.get(&transaction, key)? {
            Some(digest) => Ok::<_, Unapplied>(Digest::decode(digest)?),
            None => Ok(Digest::default()),
        };
        for (key, digest) in digests.changed(&mut root, stored)? {
            match digest.count {
                0 => {
                    self.store_table.delete(&mut transaction, &key)?;
                }
                _ => self.store_table.put(&mut transaction, &key, &digest.encode())?,
            }
        }
        self.store_table.put(&mut transaction, ROOT_KEY, &root.encode_root())?;
        if let Some(metadata) = metadata {
            self.store_table.put(&mut transaction, METADATA_KEY, metadata)?;
        }
        Ok(transaction.commit()?)
    }

    /// Writes digests of what a program has stored that knew none; the root digest.
    fn adopt(&self, transaction: &mut RwTxn<'_>) -> Result<Digest, Unapplied> {
        let mut digests = BTreeMap::new();
        for keyspace in Keyspace::ALL {
            self.add_digests(transaction, keyspace, &mut digests)?;
        }
        for (key, digest) in &digests {
            self.store_table.put(transaction, key, &digest.encode())?;
        }
        Ok(root_of(&digests))
    }

    /// The digests of what is stored in a keyspace.
    ///
    /// Who goes from leaf to leaf does not look at the keys above them, but who looks for a key does: so the first and the
    /// last key of each leaf is looked for, too.
    fn add_digests(
        &self,
        transaction: &RoTxn<'_>,
        keyspace: Keyspace,
        digests: &mut BTreeMap<Vec<u8>, Digest>,
    ) -> Result<(), Unapplied> {
        if prefix(keyspace, &[]).is_none() {
            return Ok(());
        }
        let map = self.map.try_read().ok();
        let table = self.table(keyspace);
        let find = |key: &[u8]| match table.get(transaction, key)? {
            Some(_) => Ok(()),
            None => {
                Err(Unapplied::Damaged(StorageError::CorruptMetadata { reason: "a key is not in its place" }))
            }
        };
        let page_of = |key: &[u8]| key.as_ptr() as u64 / page_bytes();
        let mut last: Option<&[u8]> = None;
        for entry in table.iter(transaction)? {
            let (key, sealed) = entry?;
            if last.is_none_or(|last| page_of(last) != page_of(key)) {
                last.map_or(Ok(()), find)?;
                find(key)?;
            }
            if last.is_some_and(|last| last >= key) {
                return Err(StorageError::CorruptMetadata { reason: "keys are not in order" }.into());
            }
            last = Some(key);
            let prefix = prefix(keyspace, key).expect("a keyspace with digests");
            digests.entry(digest_key(keyspace, prefix)).or_default().add(entry_hash(key, sealed));
            if let Some(map) = &map {
                self.touch(map);
            }
        }
        last.map_or(Ok(()), find)
    }

    /// What is not as it should be.
    ///
    /// Of blocks only the first key of each is looked for, and the entries of the last block of each chain are counted:
    /// the others are linked by hashes, and are many. [`HeedCheckpoint::verify`] counts them all.
    fn differing(&self, is_thorough: bool) -> Result<Vec<Incomplete>, StorageError> {
        let snapshot = self.read()?;
        let (transaction, corrupt) =
            (&snapshot.transaction, |reason| StorageError::CorruptMetadata { reason });
        let metadata =
            self.store_table.get(transaction, METADATA_KEY).map_err(failed("read its metadata"))?;
        let root = self.store_table.get(transaction, ROOT_KEY).map_err(failed("read its digests"))?;
        let Some(root) = root else {
            // Programs of the first version had none.
            let version =
                metadata.and_then(|metadata| metadata.first_chunk()).copied().map(u32::from_le_bytes);
            return match version {
                Some(version) if version > FORMAT_VERSION_MIN => Err(corrupt("the digests are missing")),
                _ => Ok(Vec::new()),
            };
        };
        let root = Digest::decode_root(root)?;
        let mut expected = BTreeMap::new();
        let entries = self.store_table.prefix_iter(transaction, DIGESTS_PREFIX);
        for entry in entries.map_err(failed("read its digests"))? {
            let (key, digest) = entry.map_err(failed("read its digests"))?;
            if self.store_table.get(transaction, key).map_err(failed("read its digests"))? != Some(digest) {
                return Err(corrupt("a digest is not in its place"));
            }
            expected.insert(key.to_vec(), Digest::decode(digest)?);
        }
        if root_of(&expected) != root {
            return Err(corrupt("digests are missing or damaged"));
        }
        let mut found = BTreeMap::new();
        for keyspace in Keyspace::ALL {
            if keyspace != Keyspace::Blocks || is_thorough {
                self.add_digests(transaction, keyspace, &mut found)?;
            }
        }
        if !is_thorough {
            self.add_digests_of_blocks(transaction, &mut expected, &mut found)?;
        }
        let keys: BTreeSet<&Vec<u8>> = expected.keys().chain(found.keys()).collect();
        let differing = keys.into_iter().filter(|key| expected.get(*key) != found.get(*key));
        let incomplete = |key: &Vec<u8>| {
            let (keyspace, prefix) =
                parse_digest_key(key).ok_or(corrupt("the key of a digest is malformed"))?;
            let count = |digests: &BTreeMap<_, Digest>| digests.get(key).map_or(0, |digest| digest.count);
            Ok(Incomplete {
                keyspace,
                prefix: prefix.to_vec(),
                expected: count(&expected),
                found: count(&found),
            })
        };
        differing.map(incomplete).collect()
    }

    /// Counts the entries of the last block of each chain; of the other blocks, which are not counted, only the first key
    /// must be there.
    fn add_digests_of_blocks(
        &self,
        transaction: &RoTxn<'_>,
        expected: &mut BTreeMap<Vec<u8>, Digest>,
        found: &mut BTreeMap<Vec<u8>, Digest>,
    ) -> Result<(), StorageError> {
        let table = self.table(Keyspace::Blocks);
        let start = digest_key(Keyspace::Blocks, &[]);
        let blocks: Vec<Vec<u8>> = expected
            .range(start.clone()..)
            .map(|(key, _)| key)
            .take_while(|key| key.starts_with(&start))
            .cloned()
            .collect();
        for (i, key) in blocks.iter().enumerate() {
            let block = &key[start.len()..];
            let chain = &block[..block.len().min(CHAIN_BYTES)];
            let is_last = blocks.get(i + 1).is_none_or(|next| !next[start.len()..].starts_with(chain));
            if is_last {
                let entries = table.prefix_iter(transaction, block).map_err(failed("read a block"))?;
                for entry in entries {
                    let (entry_key, sealed) = entry.map_err(failed("read a block"))?;
                    found.entry(key.clone()).or_default().add(entry_hash(entry_key, sealed));
                }
            } else if table.get(transaction, block).map_err(failed("read a block"))?.is_some() {
                expected.remove(key);
            }
        }
        Ok(())
    }

    /// Call this after reading or writing a value.
    fn touch(&self, map: &RwLockReadGuard<'_, Option<Map>>) {
        if let Some(map) = &**map {
            self.residency.touch(map);
        }
    }

    /// Gives the file room for this many bytes beyond what LMDB uses of it.
    fn reserve(&self, bytes: u64) -> io::Result<()> {
        let used_bytes = (self.environment.info().last_page_number as u64 + 1) * page_bytes();
        let until = used_bytes + bytes;
        let reserved_until = self.reserved_until.load(Ordering::Relaxed).max(used_bytes);
        if until <= reserved_until {
            return Ok(());
        }
        match system::allocate_beyond(&self.file, reserved_until, until - reserved_until) {
            Err(error) if error.kind() == ErrorKind::Unsupported => {}
            result => result?,
        }
        self.reserved_until.fetch_max(until, Ordering::Relaxed);
        Ok(())
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

/// Makes LMDB's file as long as it says, if it is not, by so many zeros: who reads beyond its end is killed by a signal.
///
/// Pages that a transaction has taken and given back are never written, so a file may lack some at its end in which nothing
/// is. One that was cut off looks the same, which is why everything is checked then.
///
/// Each of the first two pages is a header of 16 bytes, and a meta page: magic number, version, two words, two trees of
/// 48 bytes, the number of the last page. The first word of the first tree is the size of pages.
fn make_whole(path: &Path) -> Result<u64, StorageError> {
    /// More than a transaction takes.
    const MISSING_BYTES_MAX: u64 = 1 << 30;
    const MAGIC: [u8; 4] = 0xBEEF_C0DE_u32.to_ne_bytes();
    let failed = || StorageError::io("read the checkpoint");
    let corrupt = |reason| StorageError::CorruptMetadata { reason };
    let file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
        result => result.map_err(failed())?,
    };
    let length = file.metadata().map_err(failed())?.len();
    if length == 0 {
        return Ok(0);
    }
    let meta = |offset: u64| {
        let mut bytes = [0; 152];
        file.read_exact_at(&mut bytes, offset).map_err(|_| corrupt("data.mdb is cut off"))?;
        Ok::<_, StorageError>(bytes)
    };
    let first = meta(0)?;
    if first[16..20] != MAGIC {
        return Err(corrupt("data.mdb does not begin as it should"));
    }
    let page_bytes = u64::from(u32::from_ne_bytes(first[40..44].try_into().expect("four bytes")));
    if !page_bytes.is_power_of_two() || !(512..=65_536).contains(&page_bytes) {
        return Err(corrupt("data.mdb has pages of an impossible size"));
    }
    let mut whole_bytes = length;
    for bytes in [first, meta(page_bytes)?] {
        let last_page = u64::from_ne_bytes(bytes[136..144].try_into().expect("eight bytes"));
        let used_bytes = last_page.checked_add(1).and_then(|pages| pages.checked_mul(page_bytes));
        let is_likely = |used_bytes: &u64| used_bytes.saturating_sub(length) <= MISSING_BYTES_MAX;
        let used_bytes = used_bytes.filter(is_likely).filter(|_| bytes[16..20] == MAGIC);
        whole_bytes = whole_bytes.max(used_bytes.ok_or(corrupt("the head of data.mdb is damaged"))?);
    }
    if whole_bytes > length {
        let file = File::options().write(true).open(path).map_err(failed())?;
        file.set_len(whole_bytes).map_err(failed())?;
    }
    Ok(whole_bytes - length)
}

/// How large the pages of LMDB are: like those of the machine.
fn page_bytes() -> u64 {
    // SAFETY: a call of the operating system with a number only.
    u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
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
        let changes_bytes: usize = changes.iter().map(Change::applied_bytes).sum();
        let reserved = self.reserve(RESERVE_BYTES + changes_bytes as u64 / 4 * 5);
        loop {
            match self.try_apply(changes, metadata) {
                // Nothing was written, so this is no retry of a sync.
                Err(Unapplied::Lmdb(heed::Error::Mdb(MdbError::MapFull))) => self.grow()?,
                // LMDB says so if it could write only a part. The transaction is void, and all its pages are written
                // again if it is tried again, so this is no retry of a sync either.
                Err(Unapplied::Lmdb(heed::Error::Io(error)))
                    if is_no_room(&error)
                        || (reserved.is_err() && error.raw_os_error() == Some(libc::EIO)) =>
                {
                    return Err(StorageError::NoRoom {
                        reason: format!("the checkpoint cannot be written: {error}"),
                    });
                }
                Err(Unapplied::Lmdb(error)) => return Err(failed("be written")(error)),
                Err(Unapplied::Damaged(error)) => return Err(error),
                Ok(()) => return Ok(()),
            }
        }
    }

    fn verify(&self) -> Result<(), StorageError> {
        self.differing(true)?.into_iter().next().map_or(Ok(()), |incomplete| Err(incomplete.into()))
    }

    fn check_again(&self) -> Result<(), StorageError> {
        self.note_damage()
    }

    fn damaged(&self) -> BTreeMap<u32, String> {
        self.damaged.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn room(&self) -> Result<(u64, bool), StorageError> {
        let snapshot = self.read()?;
        let used_bytes = (self.environment.info().last_page_number as u64 + 1) * page_bytes();
        let mut live_bytes = 0;
        for table in self.keyspace_tables.iter().chain([&self.store_table, &self.names]) {
            let size = table.stat(&snapshot.transaction).map_err(failed("tell its size"))?;
            let pages = size.branch_pages + size.leaf_pages + size.overflow_pages;
            live_bytes += pages as u64 * u64::from(size.page_size);
        }
        drop(snapshot);
        let free_bytes = used_bytes.saturating_sub(live_bytes);
        let is_reserved = self.reserve(RESERVE_BYTES).is_ok() || free_bytes >= 2 * RESERVE_BYTES;
        Ok((free_bytes, is_reserved))
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
    _within: WithinLmdb,
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
