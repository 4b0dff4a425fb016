//! Damage to any byte of what is stored: the same data, a refusal, or an error on a read; nothing goes missing unseen.
//!
//! `STORAGE_DAMAGE_STEP=1 cargo nextest run -p io --test storage_damage` changes each byte (from `STORAGE_DAMAGE_FIRST` on),
//! which takes the better part of an hour; by default, some of them. Opening a damaged directory may end the process with a
//! line, so that is done by children.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use bytes::Bytes;
use io::storage::{DIRECTORY_NAME, Keyspace, RealDisk, StorageError, Store, StoreOptions, Write};

/// What a child is to do: the directory with the data, the file, the first and last offset, and the step.
const TASK_VARIABLE: &str = "STORAGE_DAMAGE_TASK";

/// How far apart the bytes are that are changed, unless told. A prime, so that all fields of regular structures are hit.
const STEP_DEFAULT: u64 = 509;

/// How many offsets a child looks at before the next one begins.
const OFFSETS_PER_CHILD: u64 = 400;

type Contents = BTreeMap<(Keyspace, Vec<u8>), Bytes>;

fn options() -> StoreOptions {
    StoreOptions { segment_bytes: 24 * 1024, growth_bytes: 8 * 1024, ..StoreOptions::default() }
}

fn open(directory: &Path) -> Result<Store, StorageError> {
    Store::open(Arc::new(RealDisk::open_with_map_size(directory, 64 << 20)?), options())
}

fn write(keyspace: Keyspace, key: &[u8], length: usize) -> Write {
    let value = Some(Bytes::from(vec![key.last().copied().unwrap_or(7); length]));
    Write { keyspace, key: key.to_vec(), value }
}

/// Data as a host has it: keys, chains, subjects, effects, histories, pages and their handles; in the checkpoint, and some
/// of it in the log.
fn make(directory: &Path) {
    let mut store = open(directory).unwrap();
    let key = |parts: &[u32]| parts.iter().flat_map(|part| part.to_be_bytes()).collect::<Vec<u8>>();
    for round in 0..3 {
        let mut batch = vec![write(Keyspace::Meta, b"key/host", 32), write(Keyspace::Meta, b"key/app", 32)];
        for chain in 0..3 {
            batch.push(write(Keyspace::Catalog, &[chain as u8; 32], 60));
            batch.push(write(Keyspace::Values, &key(&[chain, 0]), 300));
            for number in 0..40 {
                batch.push(write(Keyspace::Values, &key(&[chain, 2, round * 100 + number]), 90));
                batch.push(write(Keyspace::Trees, &key(&[chain, number % 2, number]), 50));
            }
            for ordinal in 0..3 {
                batch.push(write(Keyspace::Blocks, &key(&[chain, ordinal]), 32));
                (0..6).for_each(|id| batch.push(write(Keyspace::Blocks, &key(&[chain, ordinal, id]), 70)));
            }
        }
        (0..2).for_each(|page| {
            batch.push(write(Keyspace::Pages, &key(&[0, page]), 3_000 + 20_000 * page as usize))
        });
        let drop = |number| Write { keyspace: Keyspace::Values, key: key(&[1, 2, number]), value: None };
        batch.extend((0..10).map(drop));
        store.commit(&[batch]).unwrap();
        store.checkpoint().unwrap();
    }
    for number in 0..6 {
        store.commit(&[vec![write(Keyspace::Values, &key(&[0, 2, 1_000 + number]), 200)]]).unwrap();
    }
    // A moment later this is done without being asked for.
    store.note_durable().unwrap();
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (path, name) = entry.map(|entry| (entry.path(), entry.file_name())).unwrap();
        if path.is_dir() {
            copy(&path, &to.join(name));
        } else {
            fs::copy(&path, to.join(name)).unwrap();
        }
    }
}

fn contents_of(store: &Store) -> Result<Contents, StorageError> {
    let mut contents = Contents::new();
    for keyspace in Keyspace::ALL {
        for (key, value) in store.scan(keyspace, b"", None, usize::MAX)? {
            contents.insert((keyspace, key), value);
        }
    }
    Ok(contents)
}

/// Whether a store that opened shows what was stored, or says what it cannot show: a value, or what belongs to a chain.
fn check(store: &Store, expected: &Contents) -> Result<(), String> {
    let damaged = store.reader().damaged_chains();
    let is_shown = |keyspace: Keyspace, key: &[u8]| match keyspace {
        Keyspace::Values | Keyspace::Blocks | Keyspace::Trees => {
            key.first_chunk().is_none_or(|chain| !damaged.contains_key(&u32::from_be_bytes(*chain)))
        }
        _ => true,
    };
    let mut is_history_whole = true;
    for keyspace in Keyspace::ALL {
        let wanted = expected.iter().filter(|((of, key), _)| *of == keyspace && is_shown(keyspace, key));
        for ((_, key), value) in wanted.clone() {
            match store.get(keyspace, key) {
                Ok(Some(found)) if found == *value => {}
                Ok(Some(_)) => return Err(format!("another value of {} in {keyspace}", key.escape_ascii())),
                // A page is named by its handle, and who reads it notices; blocks are linked, see below.
                Ok(None) if keyspace == Keyspace::Pages => {}
                Ok(None) if keyspace == Keyspace::Blocks => is_history_whole = false,
                Ok(None) => return Err(format!("{} is lost from {keyspace}", key.escape_ascii())),
                Err(_) => {}
            }
        }
        // An error says what cannot be read.
        let Ok(mut found) = store.scan(keyspace, b"", None, usize::MAX) else { continue };
        found.retain(|(key, _)| is_shown(keyspace, key));
        let wanted: Vec<_> = wanted.map(|((_, key), value)| (key.clone(), value.clone())).collect();
        match keyspace {
            _ if found == wanted => {}
            Keyspace::Pages => {}
            Keyspace::Blocks => is_history_whole = false,
            _ => return Err(format!("a scan of {keyspace} does not show what was stored")),
        }
    }
    // The links of a history show what is missing when it is read, and this shows it at once.
    if !is_history_whole && store.reader().verify().is_ok() {
        return Err("a history has lost entries, and nothing says so".into());
    }
    Ok(())
}

#[test]
#[ignore = "a child of the others"]
fn child() {
    let task = std::env::var(TASK_VARIABLE).expect("a task");
    let parts: Vec<&str> = task.split('|').collect();
    let [data, file, first, last, step] = parts[..] else { panic!("a task has five parts") };
    let number = |text: &str| text.parse::<u64>().unwrap();
    io::signals::install();
    let directory = tempfile::tempdir_in(place()).unwrap();
    let work = directory.path();
    copy(Path::new(data), work);
    let expected = contents_of(&open(work).unwrap()).unwrap();
    for offset in (number(first)..number(last)).step_by(number(step) as usize) {
        fs::remove_dir_all(work.join(DIRECTORY_NAME)).unwrap();
        copy(Path::new(data), work);
        let damaged = fs::OpenOptions::new().read(true).write(true).open(work.join(file)).unwrap();
        let mut byte = [0];
        damaged.read_exact_at(&mut byte, offset).unwrap();
        damaged.write_all_at(&[byte[0] ^ (1 << (offset % 8))], offset).unwrap();
        drop(damaged);
        // The parent sees which was the last.
        println!("\nat {offset}");
        match open(work) {
            Ok(store) => {
                check(&store, &expected).unwrap_or_else(|why| panic!("byte {offset} of {file}: {why}"))
            }
            Err(error) => assert!(!error.to_string().contains('\n'), "{error}"),
        }
    }
}

/// In memory, if there is such a place: it is opened thousands of times.
fn place() -> PathBuf {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { memory.into() } else { std::env::temp_dir() }
}

fn run_child(task: String) -> Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child", "--ignored", "--nocapture", "--test-threads=1"]);
    command.env(TASK_VARIABLE, task).output().unwrap()
}

/// Changes bytes of a file of a directory; how many of them ended a child with a line.
fn damage_everywhere(data: &Path, file: &str) -> u64 {
    let step = std::env::var("STORAGE_DAMAGE_STEP").map_or(STEP_DEFAULT, |step| step.parse().unwrap());
    let length = fs::metadata(data.join(file)).unwrap().len();
    let first = std::env::var("STORAGE_DAMAGE_FIRST").map_or(0, |first| first.parse().unwrap());
    let (mut first, mut ended) = (first, 0);
    while first < length {
        let last = length.min(first + OFFSETS_PER_CHILD * step);
        let output = run_child(format!("{}|{file}|{first}|{last}|{step}", data.display()));
        let stdout = String::from_utf8_lossy(&output.stdout);
        let stderr = String::from_utf8_lossy(&output.stderr);
        if output.status.success() {
            first = last.next_multiple_of(step);
            continue;
        }
        let at = stdout.lines().rev().find_map(|line| line.strip_prefix("at ")?.parse::<u64>().ok());
        let at = at.unwrap_or_else(|| panic!("{file}: {stdout}{stderr}"));
        // A line and an exit status are a refusal; a panic or a signal is not.
        let is_refusal =
            output.status.signal().is_none() && stderr.contains("error: the data directory is damaged");
        assert!(is_refusal, "byte {at} of {file}: {:?}\n{stdout}{stderr}", output.status);
        ended += 1;
        first = at + step;
    }
    ended
}

fn damage_everywhere_in(name: &str) {
    let directory = tempfile::tempdir_in(place()).unwrap();
    make(directory.path());
    let ended = damage_everywhere(directory.path(), &format!("{DIRECTORY_NAME}/{name}"));
    println!("{name}: {ended} ended the process with a line");
}

#[test]
fn damage_to_the_checkpoint_is_noticed() {
    damage_everywhere_in("checkpoint/data.mdb");
}

/// LMDB ends the process by a signal when it finds a page that cannot be, or goes where none is: places at which it did, in
/// what this version makes; any others are as good.
#[test]
fn what_lmdb_finds_impossible_ends_with_a_line() {
    let directory = tempfile::tempdir_in(place()).unwrap();
    make(directory.path());
    let file = format!("{DIRECTORY_NAME}/checkpoint/data.mdb");
    for offset in (24_576..24_592).chain(368_432..368_448) {
        let task = format!("{}|{file}|{offset}|{}|1", directory.path().display(), offset + 1);
        let output = run_child(task);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.signal().is_none(), "byte {offset}: {:?}: {stderr}", output.status);
        assert!(
            output.status.success() || stderr.contains("error: the data directory is damaged"),
            "{stderr}"
        );
    }
}

#[test]
fn damage_to_the_first_log_is_noticed() {
    damage_everywhere_in("log-0");
}

#[test]
fn damage_to_the_second_log_is_noticed() {
    damage_everywhere_in("log-1");
}

#[test]
fn files_that_are_cut_off_are_noticed() {
    let directory = tempfile::tempdir_in(place()).unwrap();
    make(directory.path());
    let whole = tempfile::tempdir_in(place()).unwrap();
    copy(directory.path(), whole.path());
    let expected = contents_of(&open(whole.path()).unwrap()).unwrap();
    for name in ["checkpoint/data.mdb", "log-0", "log-1"] {
        let length = fs::metadata(directory.path().join(DIRECTORY_NAME).join(name)).unwrap().len();
        for quarter in 0..4 {
            let copied = directory.path().join("cut");
            let _ = fs::remove_dir_all(&copied);
            copy(&directory.path().join(DIRECTORY_NAME), &copied.join(DIRECTORY_NAME));
            let file =
                fs::OpenOptions::new().write(true).open(copied.join(DIRECTORY_NAME).join(name)).unwrap();
            file.set_len(length * quarter / 4).unwrap();
            if let Ok(store) = open(&copied) {
                check(&store, &expected).unwrap_or_else(|why| panic!("{quarter} quarters of {name}: {why}"));
            }
        }
    }
}

/// LMDB never writes a page that a transaction has taken and given back, so the file may end before the last one: that is no
/// damage, and a host that was killed then starts again.
#[test]
fn a_file_that_lacks_free_pages_at_its_end_is_whole() {
    let directory = tempfile::tempdir_in(place()).unwrap();
    make(directory.path());
    let expected = contents_of(&open(directory.path()).unwrap()).unwrap();
    let path = directory.path().join(DIRECTORY_NAME).join("checkpoint/data.mdb");
    let length = fs::metadata(&path).unwrap().len();
    // As if 39 pages more had been taken and given back.
    let file = fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    for meta in [0, 4096] {
        let mut last_page = [0; 8];
        file.read_exact_at(&mut last_page, meta + 136).unwrap();
        let last_page = u64::from_ne_bytes(last_page).max(length / 4096 - 1) + 39;
        file.write_all_at(&last_page.to_ne_bytes(), meta + 136).unwrap();
    }
    let store = open(directory.path()).unwrap();
    assert!(contents_of(&store).unwrap() == expected);
    store.reader().verify().unwrap();
}

/// Changes entries of the databases in a checkpoint behind the back of the store.
fn change_checkpoint(directory: &Path, name: &str, change: impl Fn(&[u8], &[u8]) -> Option<Vec<u8>>) {
    let path = directory.join(DIRECTORY_NAME).join("checkpoint");
    let mut environment = heed::EnvOpenOptions::new();
    environment.max_dbs(16).map_size(64 << 20);
    // SAFETY: nobody else has it open.
    let environment = unsafe { environment.open(&path) }.unwrap();
    let transaction = environment.write_txn().unwrap();
    environment
        .create_databases_and_commit(transaction, |opener, transaction| {
            let table: heed::Database<heed::types::Bytes, heed::types::Bytes> =
                opener.open_database(transaction, Some(name))?.expect("a database");
            let entries: Vec<_> = table
                .iter(transaction)?
                .map(|entry| entry.map(|(key, value)| (key.to_vec(), value.to_vec())))
                .collect::<Result<_, _>>()?;
            for (key, value) in entries {
                match change(&key, &value) {
                    Some(value) => table.put(transaction, &key, &value)?,
                    None => drop(table.delete(transaction, &key)?),
                }
            }
            Ok::<_, heed::Error>(heed::CommitOrAbort::<(), ()>::Commit(()))
        })
        .unwrap();
}

#[test]
fn data_of_the_first_version_gets_digests_with_its_first_checkpoint() {
    let directory = tempfile::tempdir().unwrap();
    make(directory.path());
    let expected = contents_of(&open(directory.path()).unwrap()).unwrap();
    let without_digests = |version: u32| {
        change_checkpoint(directory.path(), "store", |key, value| {
            if key.starts_with(b"digest") {
                return None;
            }
            let mut metadata = [&version.to_le_bytes(), &value[4..36]].concat();
            let checksum = xxhash_rust::xxh3::xxh3_64(&metadata);
            metadata.extend_from_slice(&checksum.to_le_bytes());
            Some(metadata)
        });
    };
    // A program of this version always writes them, so their absence is damage.
    without_digests(2);
    let error = open(directory.path()).err().unwrap();
    assert!(error.to_string().contains("digests are missing"), "{error}");
    without_digests(1);
    assert!(contents_of(&open(directory.path()).unwrap()).unwrap() == expected);
    // Now there are some.
    let first = expected.keys().find(|(keyspace, _)| *keyspace == Keyspace::Values).unwrap().1.clone();
    change_checkpoint(directory.path(), "values", |key, value| (key != first).then(|| value.to_vec()));
    let store = open(directory.path()).unwrap();
    let damaged: Vec<u32> = store.reader().damaged_chains().into_keys().collect();
    assert_eq!(damaged, [0], "the chain of which an entry is missing, and no other");
    assert!(
        store.reader().damaged_chains()[&0].contains("keyspace values"),
        "{:?}",
        store.reader().damaged_chains()
    );
    assert!(matches!(store.reader().verify(), Err(StorageError::Incomplete(_))));
    let backup = store.reader().back_up(&mut |_| Ok(()));
    assert!(matches!(backup, Err(StorageError::CannotBackUp { .. })), "{backup:?}");
    drop(store);
    // What concerns no chain concerns them all.
    change_checkpoint(directory.path(), "catalog", |key, value| (*key != [1; 32]).then(|| value.to_vec()));
    let error = open(directory.path()).err().unwrap();
    assert!(
        matches!(&error, StorageError::Incomplete(missing) if missing.keyspace == Keyspace::Catalog),
        "{error}"
    );
}
