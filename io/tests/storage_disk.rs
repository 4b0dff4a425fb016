//! The store on the disk of this machine.

use std::io::{BufRead, BufReader, Write as _};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::{fs, thread};

use bytes::Bytes;
use heed::types::Bytes as RawBytes;
use heed::{CommitOrAbort, Database, EnvOpenOptions};
use io::storage::{
    CheckpointStore, DIRECTORY_NAME, HeedCheckpoint, Keyspace, RealDisk, StorageError, Store, StoreOptions,
    Write,
};

/// Names the directory that a child process of a test is to work in.
const CHILD_DIRECTORY_VARIABLE: &str = "STORAGE_TEST_DIRECTORY";

fn small_options() -> StoreOptions {
    StoreOptions { segment_bytes: 64 * 1024, growth_bytes: 16 * 1024, ..StoreOptions::default() }
}

fn open(directory: &Path) -> Result<Store, StorageError> {
    Store::open(Arc::new(RealDisk::open(directory)?), small_options())
}

fn put(key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Write {
    let value = Some(Bytes::copy_from_slice(value.as_ref()));
    Write { keyspace: Keyspace::Values, key: key.as_ref().to_vec(), value }
}

fn delete(key: &str) -> Write {
    Write { keyspace: Keyspace::Values, key: key.into(), value: None }
}

fn stored(directory: &Path, name: &str) -> PathBuf {
    directory.join(DIRECTORY_NAME).join(name)
}

/// Changes a byte of a file.
fn damage(path: &Path, offset: u64) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], offset).unwrap();
}

#[test]
fn what_was_committed_is_there_after_reopening() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["log-0", "Cargo.toml", "checkpoint"] {
        fs::write(directory.path().join(name), "not ours").unwrap();
    }
    let mut store = open(directory.path()).unwrap();
    let disk_id = store.disk_id();
    store
        .commit(&[vec![put("a", "1"), put("b", "2")], vec![put("a", "3"), delete("b"), put("c", "")]])
        .unwrap();
    drop(store);

    // Once from the log, once from the checkpoint.
    for _ in 0..2 {
        let store = open(directory.path()).unwrap();
        assert_eq!(store.disk_id(), disk_id);
        assert_eq!(store.log_bytes(), 0);
        assert_eq!(store.get(Keyspace::Values, b"a").unwrap().unwrap(), "3");
        assert_eq!(store.get(Keyspace::Values, b"b").unwrap(), None);
        assert_eq!(store.get(Keyspace::Values, b"c").unwrap().unwrap(), "");
        assert_eq!(store.get(Keyspace::Blocks, b"a").unwrap(), None);
        store.close().unwrap();
    }
    assert_eq!(fs::read(directory.path().join("log-0")).unwrap(), b"not ours");
}

#[test]
fn a_scan_merges_the_log_with_the_checkpoint() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = open(directory.path()).unwrap();
    store.commit(&[(0..20).map(|number| put(format!("p{number:02}"), "old")).collect()]).unwrap();
    store.commit(&[vec![put("o", "before"), put("q", "after")]]).unwrap();
    store.checkpoint().unwrap();
    assert_eq!(store.log_bytes(), 0);
    store.commit(&[vec![put("p03", "new"), delete("p05"), delete("p19"), put("p055", "between")]]).unwrap();
    assert!(store.log_bytes() > 0);

    let keys = |from: Option<&str>, limit| -> Vec<String> {
        let entries = store.scan(Keyspace::Values, b"p", from.map(str::as_bytes), limit).unwrap();
        entries.into_iter().map(|(key, _)| String::from_utf8(key).unwrap()).collect()
    };
    assert_eq!(keys(None, 5), ["p00", "p01", "p02", "p03", "p04"]);
    assert_eq!(keys(Some("p04"), 4), ["p04", "p055", "p06", "p07"]);
    assert_eq!(keys(Some("p17"), 9), ["p17", "p18"]);
    assert_eq!(keys(Some("a"), 1), ["p00"]);
    assert_eq!(keys(Some("z"), 9), Vec::<String>::new());
    assert_eq!(keys(None, 0), Vec::<String>::new());
    assert_eq!(keys(None, usize::MAX).len(), 19);
    assert_eq!(keys(Some(&"p".repeat(2000)), 1), Vec::<String>::new());
    assert_eq!(store.scan(Keyspace::Values, &[b'p'; 2000], None, 9).unwrap(), []);
    assert_eq!(store.get(Keyspace::Values, b"p03").unwrap().unwrap(), "new");
    assert_eq!(store.scan(Keyspace::Values, b"", None, 99).unwrap().len(), 21);
}

#[test]
fn readers_see_whole_commits_while_checkpoints_run() {
    const ACCOUNTS: u64 = 16;
    const COMMIT_COUNT: u64 = 600;
    let directory = tempfile::tempdir().unwrap();
    let mut store = open(directory.path()).unwrap();
    let key = |account: u64| format!("account {account:02}");
    // The number, and enough padding to make the segments change places often.
    let value = |number: u64| {
        let mut value = vec![0; 700];
        value[..8].copy_from_slice(&number.to_le_bytes());
        value
    };
    let all = |number| (0..ACCOUNTS).map(|account| put(key(account), value(number))).collect::<Vec<_>>();
    store.commit(&[all(0)]).unwrap();
    let is_done = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let (reader, is_done) = (store.reader(), is_done.clone());
            thread::spawn(move || {
                let (mut last, mut scan_count) = (0, 0);
                while !is_done.load(Ordering::Relaxed) {
                    let entries = reader.scan(Keyspace::Values, b"account", None, 99).unwrap();
                    let numbers: Vec<u64> = entries
                        .iter()
                        .map(|(_, value)| u64::from_le_bytes(value[..8].try_into().unwrap()))
                        .collect();
                    assert_eq!(numbers.len() as u64, ACCOUNTS);
                    assert!(numbers.iter().all(|number| *number == numbers[0]), "one commit: {numbers:?}");
                    assert!(numbers[0] >= last, "time does not run backwards");
                    last = numbers[0];
                    let one = reader.get(Keyspace::Values, b"account 07").unwrap().unwrap();
                    assert!(u64::from_le_bytes(one[..8].try_into().unwrap()) >= last);
                    scan_count += 1;
                }
                scan_count
            })
        })
        .collect();
    for number in 1..=COMMIT_COUNT {
        store.commit(&[all(number)]).unwrap();
    }
    is_done.store(true, Ordering::Relaxed);
    for reader in readers {
        assert!(reader.join().unwrap() > 10);
    }
    store.close().unwrap();
    let store = open(directory.path()).unwrap();
    assert_eq!(store.get(Keyspace::Values, key(3).as_bytes()).unwrap().unwrap(), value(COMMIT_COUNT));
}

#[test]
fn the_map_grows_when_it_is_full() {
    let directory = tempfile::tempdir().unwrap();
    let disk = RealDisk::open_with_map_size(directory.path(), 256 * 1024).unwrap();
    let mut store = Store::open(Arc::new(disk), StoreOptions::default()).unwrap();
    for number in 0..64 {
        store.commit(&[vec![put(format!("key {number}"), vec![number; 100_000])]]).unwrap();
    }
    store.checkpoint().unwrap();
    assert_eq!(store.get(Keyspace::Values, b"key 63").unwrap().unwrap(), vec![63; 100_000]);
    drop(store);
    // Also when it is smaller than the data from the start.
    let disk = RealDisk::open_with_map_size(directory.path(), 256 * 1024).unwrap();
    let store = Store::open(Arc::new(disk), StoreOptions::default()).unwrap();
    assert_eq!(store.scan(Keyspace::Values, b"key", None, 99).unwrap().len(), 64);
}

/// Copies a checkpoint, but not these keyspaces: they did not exist when it was made.
fn copy_checkpoint_without(from: &Path, to: &Path, missing: &[Keyspace]) {
    let open = |directory: &Path| {
        // SAFETY: nothing else has these directories open.
        unsafe { EnvOpenOptions::new().map_size(1 << 30).max_dbs(16).open(directory) }.unwrap()
    };
    let names =
        Keyspace::ALL.iter().filter(|keyspace| !missing.contains(keyspace)).map(|keyspace| keyspace.name());
    let names: Vec<&str> = names.chain(["store"]).collect();
    let mut tables = Vec::new();
    let source = open(from);
    let transaction = source.write_txn().unwrap();
    source
        .create_databases_and_commit(transaction, |opener, transaction| {
            for name in &names {
                let table: Database<RawBytes, RawBytes> =
                    opener.open_database(transaction, Some(name))?.unwrap();
                let entries: Result<Vec<_>, _> = table
                    .iter(transaction)?
                    .map(|entry| entry.map(|(key, value)| (key.to_vec(), value.to_vec())))
                    .collect();
                tables.push((name, entries?));
            }
            Ok::<_, heed::Error>(CommitOrAbort::<(), ()>::Abort(()))
        })
        .unwrap();
    let target = open(to);
    let transaction = target.write_txn().unwrap();
    target
        .create_databases_and_commit(transaction, |opener, transaction| {
            for (name, entries) in tables {
                let table: Database<RawBytes, RawBytes> = opener.create_database(transaction, Some(name))?;
                for (key, value) in entries {
                    table.put(transaction, &key, &value)?;
                }
            }
            Ok::<_, heed::Error>(CommitOrAbort::<(), ()>::Commit(()))
        })
        .unwrap();
}

#[test]
fn a_directory_from_before_a_keyspace_opens() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = open(directory.path()).unwrap();
    store.commit(&[vec![put("key", "value")]]).unwrap();
    store.close().unwrap();
    let (checkpoint, old) = (stored(directory.path(), "checkpoint"), stored(directory.path(), "old"));
    fs::create_dir(&old).unwrap();
    copy_checkpoint_without(&checkpoint, &old, &[Keyspace::Pages, Keyspace::Trees]);
    fs::remove_dir_all(&checkpoint).unwrap();
    fs::rename(&old, &checkpoint).unwrap();

    let mut store = open(directory.path()).unwrap();
    assert_eq!(store.get(Keyspace::Values, b"key").unwrap().unwrap(), "value");
    assert_eq!(store.get(Keyspace::Pages, b"key").unwrap(), None);
    assert_eq!(store.scan(Keyspace::Trees, b"", None, 9).unwrap(), []);
    let page = Write { keyspace: Keyspace::Pages, ..put("key", "page") };
    store.commit(&[vec![page, Write { keyspace: Keyspace::Trees, ..put("key", "handle") }]]).unwrap();
    store.close().unwrap();
    let store = open(directory.path()).unwrap();
    assert_eq!(store.get(Keyspace::Pages, b"key").unwrap().unwrap(), "page");
    assert_eq!(store.get(Keyspace::Trees, b"key").unwrap().unwrap(), "handle");
}

const MIB: u64 = 1024 * 1024;
const PAGE_BYTES: usize = 64 * 1024;

fn page(number: u64) -> Write {
    let value = Some(number.to_be_bytes().repeat(PAGE_BYTES / 8).into());
    Write { keyspace: Keyspace::Pages, key: number.to_be_bytes().to_vec(), value }
}

#[test]
fn a_batch_larger_than_a_segment_is_whole_after_reopening() {
    let directory = tempfile::tempdir().unwrap();
    let options = StoreOptions::within(4 * MIB);
    let page_count = 8 * options.segment_bytes / PAGE_BYTES as u64;
    let open = || Store::open(Arc::new(RealDisk::open(directory.path()).unwrap()), options.clone()).unwrap();
    let mut store = open();
    let mut batch: Vec<_> = (0..page_count).map(page).collect();
    batch.push(put("last", "one"));
    store.commit(&[batch]).unwrap();
    store.commit(&[vec![put("last", "two")]]).unwrap();
    // First from the log, then from the checkpoint.
    for is_first in [true, false] {
        if is_first {
            drop(store);
        } else {
            store.close().unwrap();
        }
        store = open();
        for number in 0..page_count {
            assert_eq!(store.get(Keyspace::Pages, &number.to_be_bytes()).unwrap(), page(number).value);
        }
        assert_eq!(store.get(Keyspace::Values, b"last").unwrap().unwrap(), "two");
    }
    let length = |name| fs::metadata(stored(directory.path(), name)).unwrap().len();
    for number in 0..8 {
        store.commit(&[vec![page(number)]]).unwrap();
        store.checkpoint().unwrap();
    }
    assert!(length("log-0") + length("log-1") <= 8 * options.segment_bytes, "large segments shrink again");
}

/// What the process has in memory: what it has allocated, and what is resident of files.
#[cfg(target_os = "linux")]
fn resident_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
}

// Each test has a process for itself (`cargo nextest`), so what it measures is its own.
#[test]
#[cfg(target_os = "linux")]
fn memory_stays_bounded_while_more_is_written_read_and_deleted() {
    const BUDGET_BYTES: u64 = 8 * MIB;
    const SLACK_BYTES: u64 = 16 * MIB;
    const PAGE_COUNT: u64 = 64 * MIB / PAGE_BYTES as u64;
    const BATCH_PAGES: u64 = 16;
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut store = Store::open_directory(directory.path(), BUDGET_BYTES).unwrap();
    let (before, mut most) = (resident_bytes(), 0);
    let mut look = || most = most.max(resident_bytes());
    for first in (0..PAGE_COUNT).step_by(BATCH_PAGES as usize) {
        store.commit(&[(first..first + BATCH_PAGES).map(page).collect()]).unwrap();
        look();
    }
    let scattered = |index: u64| index * 997 % PAGE_COUNT;
    for index in 0..PAGE_COUNT {
        let number = scattered(index);
        assert_eq!(store.get(Keyspace::Pages, &number.to_be_bytes()).unwrap(), page(number).value);
        look();
    }
    let mut from = Vec::new();
    while let Some((last, _)) = store.scan(Keyspace::Pages, b"", Some(&from), 8).unwrap().last() {
        from = [last, [0].as_slice()].concat();
        look();
    }
    for index in 0..PAGE_COUNT / BATCH_PAGES {
        let numbers = (0..BATCH_PAGES).map(|number| scattered(index * BATCH_PAGES + number));
        store.commit(&[numbers.map(|number| Write { value: None, ..page(number) }).collect()]).unwrap();
        look();
    }
    store.checkpoint().unwrap();
    look();
    assert_eq!(store.scan(Keyspace::Pages, b"", None, 1).unwrap(), []);
    let grown = most - before;
    assert!(grown <= BUDGET_BYTES + SLACK_BYTES, "{grown} bytes more than before");
}

#[test]
fn a_directory_has_one_owner() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).unwrap();
    let error = open(directory.path()).err().unwrap();
    assert!(matches!(error, StorageError::Locked { .. }));
    assert!(error.to_string().contains("in use by another process"), "{error}");

    let output = child("child_opens", directory.path()).output().unwrap();
    let output = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.contains("in use by another process"), "{output}");

    // A reader keeps it, too.
    let reader = store.reader();
    drop(store);
    assert!(open(directory.path()).is_err());
    drop(reader);
    open(directory.path()).unwrap();
}

/// This test program again, as another process that runs one helper.
fn child(helper: &str, directory: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", helper, "--ignored", "--nocapture"]);
    command.env(CHILD_DIRECTORY_VARIABLE, directory);
    command
}

#[test]
#[ignore = "a helper that runs as a child process"]
fn child_opens() {
    let Ok(directory) = std::env::var(CHILD_DIRECTORY_VARIABLE) else { return };
    match open(Path::new(&directory)) {
        Ok(_) => println!("opened"),
        Err(error) => println!("{error}"),
    }
}

#[test]
#[ignore = "a helper that runs as a child process"]
fn child_commits_for_ever() {
    let Ok(directory) = std::env::var(CHILD_DIRECTORY_VARIABLE) else { return };
    let mut store = open(Path::new(&directory)).unwrap();
    let last = store.get(Keyspace::Values, b"first").unwrap();
    let mut number = last.map_or(0, |last| u64::from_le_bytes(last[..8].try_into().unwrap()));
    let mut output = std::io::stdout().lock();
    loop {
        number += 1;
        let value = number.to_le_bytes().repeat(100);
        store.commit(&[vec![put("first", &value), put("last", &value)]]).unwrap();
        writeln!(output, "\nacknowledged {number}").unwrap();
    }
}

#[test]
fn nothing_acknowledged_is_lost_when_the_process_is_killed() {
    let directory = tempfile::tempdir().unwrap();
    let mut acknowledged = 0;
    for round in 1..=5 {
        let mut process =
            child("child_commits_for_ever", directory.path()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let target = acknowledged + 90 * round;
        for line in lines {
            if let Some(number) = line.unwrap().strip_prefix("acknowledged ") {
                acknowledged = number.parse::<u64>().unwrap();
            }
            if acknowledged >= target {
                process.kill().ok();
            }
        }
        process.wait().unwrap();
        let store = open(directory.path()).unwrap();
        let first = store.get(Keyspace::Values, b"first").unwrap().unwrap();
        let number = u64::from_le_bytes(first[..8].try_into().unwrap());
        assert!(number >= acknowledged, "{acknowledged} were acknowledged, {number} are there");
        assert_eq!(store.get(Keyspace::Values, b"last").unwrap().unwrap(), first, "a batch is atomic");
        acknowledged = number;
    }
}

#[test]
fn a_damaged_record_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = open(directory.path()).unwrap();
    for number in 0..10 {
        store.commit(&[vec![put(format!("key {number}"), "value")]]).unwrap();
    }
    drop(store);
    damage(&stored(directory.path(), "log-1"), 4096 + 150);
    let error = open(directory.path()).err().unwrap();
    assert!(matches!(error, StorageError::CorruptLog { .. }));
    assert!(error.to_string().contains("shows that it was acknowledged"), "{error}");
}

#[test]
fn a_damaged_value_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = open(directory.path()).unwrap();
    let needle = b"a value that is easy to find";
    store.commit(&[vec![put("key", needle), put("other", "whole")]]).unwrap();
    store.close().unwrap();
    let path = stored(directory.path(), "checkpoint/data.mdb");
    let bytes = fs::read(&path).unwrap();
    let places: Vec<_> = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(needle)).collect();
    assert!(!places.is_empty());
    for place in places {
        damage(&path, place as u64 + 5);
    }
    let store = open(directory.path()).unwrap();
    let error = store.get(Keyspace::Values, b"key").unwrap_err();
    assert_eq!(
        error.to_string(),
        "the value of key key in keyspace values is corrupt: its checksum does not match"
    );
    assert_eq!(store.get(Keyspace::Values, b"other").unwrap().unwrap(), "whole");
}

#[test]
fn an_unknown_version_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    open(directory.path()).unwrap().close().unwrap();
    {
        let checkpoint =
            HeedCheckpoint::open(&stored(directory.path(), "checkpoint"), 1 << 30, 1 << 20).unwrap();
        let mut metadata = checkpoint.metadata().unwrap().unwrap();
        metadata[0] = 77;
        checkpoint.apply(&[], Some(&metadata)).unwrap();
    }
    let error = open(directory.path()).err().unwrap();
    assert!(matches!(error, StorageError::UnknownVersion { found: 77, .. }));
    assert!(error.to_string().contains("the checkpoint has format version 77"), "{error}");
}

#[test]
fn a_log_of_another_directory_is_refused() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    open(one.path()).unwrap().close().unwrap();
    open(other.path()).unwrap().close().unwrap();
    fs::copy(stored(one.path(), "log-1"), stored(other.path(), "log-1")).unwrap();
    let error = open(other.path()).err().unwrap();
    assert!(error.to_string().contains("belongs to another data directory"), "{error}");
}

#[test]
fn a_log_without_its_checkpoint_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    open(directory.path()).unwrap().close().unwrap();
    fs::remove_dir_all(stored(directory.path(), "checkpoint")).unwrap();
    let error = open(directory.path()).err().unwrap();
    assert!(error.to_string().contains("checkpoint that it continues is missing"), "{error}");
}
