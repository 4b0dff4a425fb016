//! What large values cost: pages of 64 KiB in batches of 4 MiB through the store, beside a bare file that is written and
//! synced the same way; and how much memory the process has resident at most while it does each.
//!
//! The store writes everything twice (log and checkpoint), so half the speed of the bare file is as good as it gets.
//! `BENCH_DIRECTORY` names a directory on the disk to measure, `BENCH_MIB` how much to write (default 2,048), and
//! `BENCH_BUDGET_MIB` the memory that the store may use (default 24).

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use io::storage::{Keyspace, RealDisk, Store, StoreOptions, Write};

#[global_allocator]
static ALLOCATOR: io::allocator::Allocator = io::allocator::Allocator;

const PAGE_BYTES: usize = 64 * 1024;
const BATCH_PAGES: usize = 64;
const MIB: usize = 1024 * 1024;
/// What the comparison with the bare file writes in each of its rounds.
const ROUND_BYTES: usize = 80 * MIB;
const ROUND_COUNT: usize = 5;
const SAMPLE_INTERVAL: Duration = Duration::from_millis(2);

/// The largest resident memory since it was last asked for, sampled by a thread.
struct Resident {
    largest: Arc<AtomicU64>,
    is_done: Arc<AtomicBool>,
}

impl Resident {
    fn start() -> Resident {
        let resident = Resident { largest: Arc::default(), is_done: Arc::default() };
        let (largest, is_done) = (resident.largest.clone(), resident.is_done.clone());
        thread::spawn(move || {
            while !is_done.load(Ordering::Relaxed) {
                largest.fetch_max(resident_bytes(), Ordering::Relaxed);
                thread::sleep(SAMPLE_INTERVAL);
            }
        });
        resident
    }

    fn take_mib(&self) -> f64 {
        self.largest.swap(0, Ordering::Relaxed) as f64 / MIB as f64
    }
}

fn resident_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a resident size");
    let kib = line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number");
    kib * 1024
}

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

/// Pages that no compression makes smaller.
struct Pages(Vec<u8>);

impl Pages {
    fn new() -> Pages {
        let mut state = 1_u64;
        let words = (0..2 * PAGE_BYTES / 8).flat_map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        });
        Pages(words.collect())
    }

    fn page(&self, number: u64, version: u64) -> Vec<u8> {
        let start = (number as usize * 40 + version as usize * 8) % PAGE_BYTES;
        let mut page = self.0[start..start + PAGE_BYTES].to_vec();
        page[..8].copy_from_slice(&number.to_be_bytes());
        page[8..16].copy_from_slice(&version.to_be_bytes());
        page
    }

    fn batch(&self, numbers: impl Iterator<Item = u64>, version: u64) -> Vec<Write> {
        numbers
            .map(|number| {
                let value = Some(Bytes::from(self.page(number, version)));
                Write { keyspace: Keyspace::Pages, key: number.to_be_bytes().to_vec(), value }
            })
            .collect()
    }
}

fn main() {
    let directory = std::env::var_os("BENCH_DIRECTORY")
        .map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    let directory = tempfile::tempdir_in(directory).expect("a directory to work in");
    let options = StoreOptions::within((setting("BENCH_BUDGET_MIB", 24) * MIB) as u64);
    let total_bytes = setting("BENCH_MIB", 2048) * MIB;
    let pages = Pages::new();
    let resident = Resident::start();

    let disk = RealDisk::open(directory.path()).expect("a directory of its own");
    let mut store = Store::open(Arc::new(disk), options).expect("a store");
    println!("{:>28} {:>9} {:>12}", "", "MB/s", "resident MiB");
    let report = |name: &str, bytes: usize, begun: Instant| {
        let speed = bytes as f64 / 1e6 / begun.elapsed().as_secs_f64();
        println!("{name:>28} {speed:>9.0} {:>12.1}", resident.take_mib());
    };

    let bare = |name: &str, total_bytes: usize| {
        let file = File::create(directory.path().join("bare")).expect("a file");
        let begun = Instant::now();
        for start in (0..total_bytes).step_by(BATCH_PAGES * PAGE_BYTES) {
            for page in 0..BATCH_PAGES {
                let offset = start + page * PAGE_BYTES;
                file.write_all_at(&pages.page(offset as u64, 0), offset as u64).expect("a write");
            }
            file.sync_data().expect("a sync");
        }
        report(name, total_bytes, begun);
        drop(file);
        fs::remove_file(directory.path().join("bare")).expect("a file");
    };
    // The first time is that of a virtual machine which gets its memory page by page.
    bare("bare file, all, cold", total_bytes);
    bare("bare file, all", total_bytes);

    // The bare file and the store take turns, so that a busy machine harms them alike.
    let mut next = 0_u64;
    for _ in 0..ROUND_COUNT {
        bare("bare file, 80 MiB", ROUND_BYTES);
        let begun = Instant::now();
        for _ in 0..ROUND_BYTES / PAGE_BYTES / BATCH_PAGES {
            store.commit(&[pages.batch(next..next + BATCH_PAGES as u64, 0)]).expect("a commit");
            next += BATCH_PAGES as u64;
        }
        report("commits, 80 MiB", ROUND_BYTES, begun);
        store.checkpoint().expect("a checkpoint");
        report("and the checkpoint", ROUND_BYTES, begun);
    }

    let begun = Instant::now();
    let first = next;
    let page_count = (total_bytes / PAGE_BYTES) as u64;
    while next < page_count {
        store.commit(&[pages.batch(next..next + BATCH_PAGES as u64, 0)]).expect("a commit");
        next += BATCH_PAGES as u64;
    }
    report("the rest, ascending", (next - first) as usize * PAGE_BYTES, begun);

    let reader = store.reader();
    let check = |number: u64| {
        let page = reader.get(Keyspace::Pages, &number.to_be_bytes()).expect("a read").expect("a page");
        assert_eq!(page[..8], number.to_be_bytes());
        page.len()
    };
    let random = |number: u64| number.wrapping_mul(0x9E37_79B9_7F4A_7C15) % next;
    let begun = Instant::now();
    let bytes = (0..next).map(|number| check(random(number))).sum();
    report("get, at random", bytes, begun);
    let begun = Instant::now();
    let bytes = (0..next).map(check).sum();
    report("get, ascending", bytes, begun);
    let begun = Instant::now();
    let mut from = Vec::new();
    let mut bytes = 0;
    while let entries = reader.scan(Keyspace::Pages, b"", Some(&from), 8).expect("a scan")
        && let Some((last, _)) = entries.last()
    {
        bytes += entries.iter().map(|(_, page)| page.len()).sum::<usize>();
        from = [last.as_slice(), &[0]].concat();
    }
    report("scan", bytes, begun);

    // As a table that changes everywhere: new pages come under new numbers, old ones are deleted.
    let begun = Instant::now();
    for round in 0..next / 4 / BATCH_PAGES as u64 {
        let mut batch = pages.batch(next + round * 64..next + (round + 1) * 64, 1);
        for index in 0..BATCH_PAGES as u64 {
            let key = random(round * BATCH_PAGES as u64 + index).to_be_bytes().to_vec();
            batch.push(Write { keyspace: Keyspace::Pages, key, value: None });
        }
        store.commit(&[batch]).expect("a commit");
    }
    report("replaced at random", next as usize / 4 * PAGE_BYTES, begun);
    let begun = Instant::now();
    store.close().expect("a close");
    println!("{:>28} {:>9.3} s", "close", begun.elapsed().as_secs_f64());
    let file = directory.path().join("tinychain/checkpoint/data.mdb");
    println!("{:>28} {:>9} MiB", "checkpoint", fs::metadata(file).expect("it").len() / MIB as u64);
    resident.is_done.store(true, Ordering::Relaxed);
}
