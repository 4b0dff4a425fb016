//! Crashes and errors at every operation of a simulated disk.
//!
//! The checker knows only what was committed, what was acknowledged, and what the store returns afterwards.
//! `STORAGE_SEEDS=500 cargo nextest run -p io --release --test storage_crash` looks further than the default.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::sync::Arc;

use bytes::Bytes;
use io::storage::simulated::{CrashKind, Fault, SimulatedCounts, SimulatedDisk};
use io::storage::{CheckpointMode, Keyspace, StorageError, Store, StoreOptions, Write};

const DEFAULT_SEED_COUNT: u64 = 24;
const STEP_COUNT: usize = 36;

/// The key that names the last batch of a state, so that no two prefixes of the history look the same.
const BATCH_NUMBER_KEY: &[u8] = b"batch number";

/// The file of the first generation.
const FIRST_FILE: &str = "log-1";

type Contents = BTreeMap<(Keyspace, Vec<u8>), Bytes>;

fn seed_count() -> u64 {
    std::env::var("STORAGE_SEEDS").ok().map_or(DEFAULT_SEED_COUNT, |count| count.parse().unwrap())
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.0 >> 33) % limit as u64) as usize
    }
}

fn options(seed: u64) -> StoreOptions {
    StoreOptions {
        // Small, so that the segments change places every few commits.
        segment_bytes: 4096 + 6 * 1024,
        overlay_bytes: 8 * 1024,
        // A checkpoint is several transactions, mostly.
        transaction_bytes: 16 * 1024,
        map_bytes: 0,
        growth_bytes: 1024,
        checkpoint_mode: CheckpointMode::Deferred { commits: (seed % 4) as u32 },
        new_disk_id: Some([seed as u8; 16]),
    }
}

fn open(disk: &SimulatedDisk, seed: u64) -> Result<Store, StorageError> {
    Store::open(Arc::new(disk.clone()), options(seed))
}

/// Everything that was handed to `commit`, in order.
#[derive(Clone, Default)]
struct History {
    batches: Vec<Vec<Write>>,
    acknowledged_count: usize,
}

impl History {
    fn contents_after(&self, count: usize) -> Contents {
        let mut contents = Contents::new();
        for write in self.batches[..count].iter().flatten() {
            let place = (write.keyspace, write.key.clone());
            match &write.value {
                Some(value) => contents.insert(place, value.clone()),
                None => contents.remove(&place),
            };
        }
        contents
    }

    /// Checks a recovered store, and goes on from what it holds.
    fn check(&mut self, store: &Store) -> Result<(), String> {
        let found = contents_of(store).map_err(|error| format!("cannot read: {error}"))?;
        let count = batch_number(store);
        if count < self.acknowledged_count {
            return Err(format!("{} batches were acknowledged, {count} are there", self.acknowledged_count));
        }
        if count > self.batches.len() {
            return Err(format!("{} batches were committed, {count} are there", self.batches.len()));
        }
        if found != self.contents_after(count) {
            return Err(format!("the contents are not those after {count} batches"));
        }
        self.batches.truncate(count);
        self.acknowledged_count = count;
        Ok(())
    }
}

/// Which batch was the last.
fn batch_number(store: &Store) -> usize {
    let number = store.get(Keyspace::Meta, BATCH_NUMBER_KEY).unwrap();
    number.map_or(0, |number| u64::from_le_bytes(number[..].try_into().unwrap()) as usize)
}

/// Everything in the store, read by scans in small pages and once more by key.
fn contents_of(store: &Store) -> Result<Contents, StorageError> {
    let mut contents = Contents::new();
    for keyspace in Keyspace::ALL {
        let mut from: Option<Vec<u8>> = None;
        loop {
            let page = store.scan(keyspace, b"", from.as_deref(), 5)?;
            let Some((last, _)) = page.last() else { break };
            let mut next = last.clone();
            next.push(0);
            from = Some(next);
            for (key, value) in page {
                assert_eq!(store.get(keyspace, &key)?.as_ref(), Some(&value));
                assert!(contents.insert((keyspace, key), value).is_none(), "a scan returns each key once");
            }
        }
    }
    Ok(contents)
}

fn random_batch(random: &mut Random, number: usize) -> Vec<Write> {
    let mut batch = Vec::new();
    for _ in 0..=random.below(4) {
        let keyspace = Keyspace::ALL[random.below(Keyspace::ALL.len())];
        let key = format!("key {}", random.below(6)).into_bytes();
        let length = [0, 3, 40, 700][random.below(4)];
        let value = (random.below(4) > 0).then(|| Bytes::from(vec![number as u8; length]));
        batch.push(Write { keyspace, key, value });
    }
    let value = Some(Bytes::copy_from_slice(&(number as u64).to_le_bytes()));
    batch.push(Write { keyspace: Keyspace::Meta, key: BATCH_NUMBER_KEY.to_vec(), value });
    batch
}

/// A batch with a page of a collection: larger than a segment, some of it larger than what a segment keeps on the disk.
fn random_page(random: &mut Random, number: usize) -> Vec<Write> {
    let mut batch = random_batch(random, number);
    let key = (random.below(2) as u64).to_be_bytes().to_vec();
    let length = [16 * 1024, 20_001, 44_000][random.below(3)];
    let value = Some(Bytes::from(vec![number as u8; length]));
    batch.insert(random.below(batch.len()), Write { keyspace: Keyspace::Pages, key, value });
    batch
}

/// Opens the store, checks it, and works until the end or the first error.
fn work(disk: &SimulatedDisk, seed: u64, step_count: usize, history: &mut History) -> Result<(), String> {
    let errors_before = disk.counts().errors;
    // Only an injected fault may make anything fail, and never by finding corruption.
    let excuse = |error: StorageError| {
        let is_faulty = disk.is_crashed() || disk.counts().errors > errors_before;
        let is_io = matches!(
            error,
            StorageError::Io { .. } | StorageError::Poisoned { .. } | StorageError::NoRoom { .. }
        );
        if is_faulty && is_io { Ok(()) } else { Err(format!("failed without a fault: {error}")) }
    };
    let mut random = Random(seed ^ history.batches.len() as u64);
    let mut store = match open(disk, seed) {
        Ok(store) => store,
        Err(error) => return excuse(error),
    };
    history.check(&store)?;
    for _ in 0..step_count {
        let result = match random.below(16) {
            0 => store.checkpoint(),
            1 => match store.close().and_then(|()| open(disk, seed)) {
                Ok(reopened) => {
                    store = reopened;
                    history.check(&store).map_err(|reason| format!("after closing: {reason}"))?;
                    Ok(())
                }
                Err(error) if error.is_no_room() => return Ok(()),
                Err(error) => return excuse(error),
            },
            _ => {
                let first_number = history.batches.len() + 1;
                let batches: Vec<_> = (first_number..=first_number + random.below(3))
                    // Large ones make every recovery slow, so they are not for every seed.
                    .map(|number| match random.below(16) {
                        0 if seed.is_multiple_of(4) => random_page(&mut random, number),
                        _ => random_batch(&mut random, number),
                    })
                    .collect();
                history.batches.extend_from_slice(&batches);
                let result = store.commit(&batches);
                match &result {
                    Ok(()) => history.acknowledged_count = history.batches.len(),
                    // What was refused must never be there.
                    Err(error) if error.is_no_room() => history.batches.truncate(history.acknowledged_count),
                    Err(_) => {}
                }
                result
            }
        };
        if let Err(error) = result {
            // A full disk is no end: the store goes on.
            if error.is_no_room() && disk.counts().errors > errors_before {
                continue;
            }
            return excuse(error);
        }
    }
    // While nothing fails, the store must show exactly what was committed.
    let found = contents_of(&store).map_err(|error| error.to_string())?;
    if found != history.contents_after(history.batches.len()) {
        return Err("the store does not show what it has acknowledged".into());
    }
    Ok(())
}

/// Works with a fault at one operation, recovers with crashes at others, and then works and recovers unharmed.
fn run(
    disk: SimulatedDisk,
    seed: u64,
    (first_fault_after, fault): (u64, Fault),
    recovery_crashes_after: [u64; 2],
) -> Result<SimulatedDisk, String> {
    let mut history = History::default();
    disk.inject(first_fault_after, fault);
    work(&disk, seed, STEP_COUNT, &mut history)?;

    let kind = |number: u64| if number.is_multiple_of(3) { CrashKind::Process } else { CrashKind::Power };
    let mut disk = disk.restart(kind(first_fault_after + seed));
    for crash_after in recovery_crashes_after {
        disk.inject(crash_after, Fault::Crash);
        work(&disk, seed, 4, &mut history)?;
        disk = disk.restart(kind(first_fault_after + crash_after));
    }
    work(&disk, seed, 8, &mut history)?;
    let disk = disk.restart(CrashKind::Power);
    work(&disk, seed, 0, &mut history)?;
    Ok(disk)
}

/// How many operations the work takes when nothing fails.
fn operation_count(seed: u64) -> u64 {
    let disk = SimulatedDisk::new(seed);
    work(&disk, seed, STEP_COUNT, &mut History::default()).unwrap();
    disk.counts().operations
}

/// Runs once for every seed and operation; the counts of all runs together.
fn run_everywhere(fault: Fault, prepare: impl Fn(&SimulatedDisk)) -> Result<SimulatedCounts, String> {
    let mut total = SimulatedCounts::default();
    for seed in 0..seed_count() {
        for operation in 0..operation_count(seed) {
            // A recovery takes about ten operations: these crashes hit it, or the work after it.
            let recovery_crashes_after = [(operation + seed) % 14, (operation / 14 + 5 * seed) % 14];
            let disk = SimulatedDisk::new(seed * 1_000_003 + operation);
            prepare(&disk);
            let disk = run(disk, seed, (operation, fault), recovery_crashes_after)
                .map_err(|error| format!("seed {seed}, operation {operation}: {error}"))?;
            let counts = disk.counts();
            total.operations += counts.operations;
            total.syncs += counts.syncs;
            total.crashes += counts.crashes;
            total.errors += counts.errors;
            total.lost_writes += counts.lost_writes;
            total.torn_writes += counts.torn_writes;
        }
    }
    println!("{total:?}");
    assert!(total.crashes > 0 && total.lost_writes > 0 && total.torn_writes > 0, "the faults must happen");
    Ok(total)
}

#[test]
fn nothing_acknowledged_is_lost_when_the_machine_stops_at_any_operation() {
    run_everywhere(Fault::Crash, |_| ()).unwrap();
}

#[test]
fn nothing_acknowledged_is_lost_when_any_operation_finds_the_disk_full() {
    let total = run_everywhere(Fault::Error(ErrorKind::StorageFull), |_| ()).unwrap();
    assert!(total.errors > 0);
}

#[test]
fn nothing_acknowledged_is_lost_when_any_operation_fails() {
    let total = run_everywhere(Fault::Error(ErrorKind::Other), |_| ()).unwrap();
    assert!(total.errors > 0);
}

#[test]
fn nothing_is_lost_when_the_power_fails_after_the_process_died() {
    // What the process leaves in the cache of the operating system is read by the next, and lost after that.
    for operation in 0..operation_count(1) {
        for recovery_operation in 0..12 {
            let mut history = History::default();
            let disk = SimulatedDisk::new(operation * 1_000_003 + recovery_operation);
            disk.inject(operation, Fault::Crash);
            work(&disk, 1, STEP_COUNT, &mut history).unwrap();
            let disk = disk.restart(CrashKind::Process);
            disk.inject(recovery_operation, Fault::Crash);
            work(&disk, 1, 0, &mut history).unwrap();
            let disk = disk.restart(CrashKind::Power);
            work(&disk, 1, 0, &mut history)
                .unwrap_or_else(|error| panic!("operations {operation}, {recovery_operation}: {error}"));
        }
    }
}

#[test]
fn the_checker_notices_a_disk_that_lies_about_syncs() {
    let count = operation_count(1);
    let (mut noticed_count, mut loss_count) = (0, 0);
    for operation in 0..count {
        let disk = SimulatedDisk::new(operation);
        disk.lie_about_syncs();
        if let Err(reason) = run(disk, 1, (operation, Fault::Crash), [100, 100]) {
            noticed_count += 1;
            loss_count += u64::from(reason.contains("were acknowledged"));
        }
    }
    println!("{count} runs: {noticed_count} were noticed, {loss_count} of them by a lost batch");
    assert!(noticed_count * 2 > count, "most lies have consequences");
    assert!(loss_count > 0, "some lies lose what was acknowledged");
}

#[test]
fn a_failed_store_never_works_again() {
    for operation in 0..60 {
        let disk = SimulatedDisk::new(operation);
        let mut store = open(&disk, 1).unwrap();
        let reader = store.reader();
        let mut random = Random(operation);
        disk.inject(operation, Fault::Error(ErrorKind::Other));
        let mut number = 0;
        let error = loop {
            number += 1;
            if let Err(error) = store.commit(&[random_batch(&mut random, number)]) {
                break error;
            }
        };
        assert!(error.to_string().contains("injected"), "{error}");
        let operations = disk.counts().operations;
        let assert_poisoned =
            |error: Option<StorageError>| assert!(matches!(error, Some(StorageError::Poisoned { .. })));
        assert_poisoned(store.commit(&[random_batch(&mut random, 1)]).err());
        assert_poisoned(store.commit(&[]).err());
        assert_poisoned(store.checkpoint().err());
        assert_poisoned(store.get(Keyspace::Meta, BATCH_NUMBER_KEY).err());
        assert_poisoned(reader.get(Keyspace::Meta, BATCH_NUMBER_KEY).err());
        assert_poisoned(reader.scan(Keyspace::Meta, b"", None, 1).err());
        assert_poisoned(store.close().err());
        assert_eq!(disk.counts().operations, operations, "a poisoned store leaves the disk alone");
    }
}

#[test]
fn a_seed_replays_byte_for_byte() {
    let contents = |seed| {
        let disk = run(SimulatedDisk::new(seed), seed, (40, Fault::Crash), [5, 6]).unwrap();
        (disk.file_contents("log-0"), disk.file_contents("log-1"), disk.counts())
    };
    assert_eq!(contents(5), contents(5));
    assert_ne!(contents(5), contents(6));
}

/// A disk whose log holds `count` single commits, and where each record ends.
fn disk_with_log(count: usize) -> (SimulatedDisk, Vec<usize>) {
    let disk = SimulatedDisk::new(1);
    let options = StoreOptions { segment_bytes: 1 << 20, overlay_bytes: 1 << 20, ..options(1) };
    let mut store = Store::open(Arc::new(disk.clone()), options).unwrap();
    let mut random = Random(1);
    let mut ends = vec![4096];
    for number in 1..=count {
        store.commit(&[random_batch(&mut random, number)]).unwrap();
        ends.push(4096 + store.log_bytes() as usize);
    }
    (disk.restart(CrashKind::Power), ends)
}

#[test]
fn damage_to_an_acknowledged_record_is_refused() {
    const COUNT: usize = 6;
    let (_, ends) = disk_with_log(COUNT);
    let mut refused_count = 0;
    for offset in ends[0]..ends[COUNT - 1] {
        let (disk, _) = disk_with_log(COUNT);
        disk.damage_file(FIRST_FILE, offset, |byte| byte ^ 0x04);
        match open(&disk, 1) {
            Err(StorageError::CorruptLog { file, reason, .. }) => {
                assert_eq!(file, FIRST_FILE);
                assert!(reason.contains("damaged"), "{reason}");
                refused_count += 1;
            }
            Err(error) => panic!("byte {offset}: {error}"),
            // The padding after a record means nothing.
            Ok(store) => assert_eq!(batch_number(&store), COUNT, "byte {offset}"),
        }
    }
    assert!(refused_count * 10 > (ends[COUNT - 1] - ends[0]) * 9, "almost every byte matters");
}

#[test]
fn a_torn_last_record_is_dropped() {
    const COUNT: usize = 4;
    let (_, ends) = disk_with_log(COUNT);
    for offset in ends[COUNT - 1]..ends[COUNT - 1] + 32 {
        let (disk, _) = disk_with_log(COUNT);
        disk.damage_file(FIRST_FILE, offset, |byte| !byte);
        assert_eq!(batch_number(&open(&disk, 1).unwrap()), COUNT - 1);
    }
}

#[test]
fn a_damaged_header_is_refused_when_records_follow() {
    for offset in 0..56 {
        let (disk, _) = disk_with_log(2);
        disk.damage_file(FIRST_FILE, offset, |byte| byte ^ 0x80);
        assert!(open(&disk, 1).is_err(), "byte {offset} of the header was damaged, and the store opened");
    }
}

#[test]
fn a_missing_log_is_refused() {
    for name in ["log-0", "log-1"] {
        let (disk, _) = disk_with_log(2);
        disk.delete_file(name);
        assert!(matches!(open(&disk, 1), Err(StorageError::CorruptLog { .. })));
    }
}

/// A disk with records of two generations, none of them in the checkpoint: `log-1` is full, `log-0` follows it.
fn disk_with_two_segments() -> (SimulatedDisk, usize) {
    let disk = SimulatedDisk::new(1);
    let checkpoint_mode = CheckpointMode::Deferred { commits: u32::MAX };
    let mut store =
        Store::open(Arc::new(disk.clone()), StoreOptions { checkpoint_mode, ..options(1) }).unwrap();
    let mut random = Random(1);
    let mut count = 0;
    let is_second_used = || disk.file_contents("log-0").unwrap().iter().skip(4096).any(|byte| *byte != 0);
    while !is_second_used() {
        count += 1;
        store.commit(&[random_batch(&mut random, count)]).unwrap();
    }
    drop(store);
    (disk.restart(CrashKind::Power), count)
}

#[test]
fn both_segments_are_replayed() {
    let (disk, count) = disk_with_two_segments();
    assert_eq!(batch_number(&open(&disk, 1).unwrap()), count);
}

#[test]
fn damage_to_either_of_two_segments_is_refused() {
    // The last record of the full segment is acknowledged, because the next segment continues after it.
    let (disk, _) = disk_with_two_segments();
    let contents = disk.file_contents("log-1").unwrap();
    let last = contents.iter().rposition(|byte| *byte != 0).unwrap();
    for offset in [0, 40, 4096, 5000, last] {
        let (disk, _) = disk_with_two_segments();
        disk.damage_file("log-1", offset, |byte| byte ^ 0x20);
        assert!(matches!(open(&disk, 1), Err(StorageError::CorruptLog { .. })), "byte {offset}");
    }
    // The header of the next segment was durable before its records.
    for offset in [0, 20, 35, 45, 50] {
        let (disk, _) = disk_with_two_segments();
        disk.damage_file("log-0", offset, |byte| byte ^ 0x20);
        assert!(matches!(open(&disk, 1), Err(StorageError::CorruptLog { .. })), "byte {offset}");
    }
}

#[test]
fn a_segment_that_became_blank_is_refused() {
    let (disk, _) = disk_with_log(2);
    // A second start makes the first generation the older one, which would be readable.
    drop(open(&disk, 1).unwrap());
    let disk = disk.restart(CrashKind::Power);
    for offset in 0..disk.file_contents("log-0").unwrap().len() {
        disk.damage_file("log-0", offset, |_| 0);
    }
    let error = open(&disk, 1).err().unwrap();
    assert!(error.to_string().contains("the checkpoint knows of generation 2"), "{error}");
}

#[test]
fn an_unknown_version_is_refused() {
    let (disk, _) = disk_with_log(2);
    disk.damage_file(FIRST_FILE, 8, |_| 9);
    let error = open(&disk, 1).err().unwrap();
    assert!(matches!(error, StorageError::UnknownVersion { found: 9, .. }));
    assert!(error.to_string().contains("version 9"), "{error}");
}

#[test]
fn a_damaged_value_names_its_place() {
    let (disk, _) = disk_with_log(8);
    let store = open(&disk, 1).unwrap();
    disk.damage_value(Keyspace::Meta, BATCH_NUMBER_KEY, |sealed| sealed[12] ^= 1);
    let error = store.get(Keyspace::Meta, BATCH_NUMBER_KEY).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the value of key batch number in keyspace meta is corrupt: its checksum does not match"
    );
    assert!(store.scan(Keyspace::Meta, b"batch", None, 9).is_err());
    assert!(store.scan(Keyspace::Catalog, b"", None, 9).is_ok(), "other values can be read");
}

#[test]
fn a_refused_argument_changes_nothing() {
    let disk = SimulatedDisk::new(1);
    let mut store = open(&disk, 1).unwrap();
    let operations = disk.counts().operations;
    for length in [0, 501] {
        let write = Write { keyspace: Keyspace::Values, key: vec![1; length], value: None };
        assert!(matches!(store.commit(&[vec![write]]), Err(StorageError::InvalidKey { .. })));
        assert!(store.get(Keyspace::Values, &vec![1; length]).is_err());
    }
    store.commit(&[]).unwrap();
    store.commit(&[vec![], vec![]]).unwrap();
    assert_eq!(disk.counts().operations, operations);
}

#[test]
fn a_checkpoint_is_all_there_or_replayed_when_the_machine_stops_between_its_transactions() {
    const KEY_COUNT: usize = 12;
    let write = |key: usize, number: u8| {
        let value = Some(Bytes::from(vec![number; 5000]));
        Write { keyspace: Keyspace::Trees, key: vec![key as u8], value }
    };
    let all = |number| vec![(0..KEY_COUNT).map(|key| write(key, number)).collect::<Vec<_>>()];
    let options = StoreOptions { segment_bytes: 1 << 20, overlay_bytes: 1 << 20, ..options(1) };
    let open = |disk: &SimulatedDisk| Store::open(Arc::new(disk.clone()), options.clone()).unwrap();
    let mut crash_count = 0;
    for operation in 0.. {
        let disk = SimulatedDisk::new(operation);
        let mut store = open(&disk);
        store.commit(&all(1)).unwrap();
        store.checkpoint().unwrap();
        store.commit(&all(2)).unwrap();
        disk.inject(operation, Fault::Crash);
        let result = store.checkpoint();
        if result.is_ok() {
            break;
        }
        crash_count += 1;
        let store = open(&disk.restart(CrashKind::Power));
        for (_, value) in store.scan(Keyspace::Trees, b"", None, KEY_COUNT).unwrap() {
            assert_eq!(value, vec![2; 5000], "operation {operation}");
        }
    }
    assert!(crash_count >= 6, "the checkpoint takes several transactions: {crash_count}");
}

#[test]
fn a_commit_larger_than_a_segment_works_and_its_space_comes_back() {
    let disk = SimulatedDisk::new(1);
    let mut store = open(&disk, 1).unwrap();
    let key = b"large".to_vec();
    let value = Some(Bytes::from(vec![7; 100_000]));
    store.commit(&[vec![Write { keyspace: Keyspace::Values, key, value }]]).unwrap();
    let disk = disk.restart(CrashKind::Power);
    let mut store = open(&disk, 1).unwrap();
    assert_eq!(store.get(Keyspace::Values, b"large").unwrap().unwrap().len(), 100_000);
    for number in 1..40 {
        store.commit(&[random_batch(&mut Random(number as u64), number)]).unwrap();
    }
    for name in ["log-0", "log-1"] {
        assert!(disk.file_contents(name).unwrap().len() < 20_000);
    }
}
