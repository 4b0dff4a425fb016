//! What a durable commit costs: a bare sync of a preallocated file, LMDB, and the store, side by side.
//!
//! The three take turns, so that a busy machine harms them alike. `BENCH_DIRECTORY` names a directory on the disk
//! to measure; the default is the target folder, because the temporary directory may be memory.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use heed::types::Bytes as RawBytes;
use heed::{CommitOrAbort, Database, EnvOpenOptions};
use io::storage::{Keyspace, Store, Write};

const ROUND_COUNT: usize = 2000;
/// What the store may take of the memory.
const STORE_BYTES: u64 = 256 * 1024 * 1024;
const FILE_BYTES: usize = 16 * 1024 * 1024;
/// Writes in one commit, and the bytes of each value.
const SHAPES: [(usize, usize); 3] = [(1, 100), (16, 100), (16, 4000)];

fn main() {
    let directory = std::env::var_os("BENCH_DIRECTORY")
        .map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    let directory = tempfile::tempdir_in(directory).expect("a directory to work in");
    println!(
        "{:>24} {:>12} {:>9} {:>9} {:>9} {:>9}",
        "one commit of", "through", "p50 ms", "p90 ms", "p99 ms", "max ms"
    );

    let file = File::create(directory.path().join("bare")).expect("a file");
    file.write_all_at(&vec![0; FILE_BYTES], 0).expect("room on the disk");
    file.sync_all().expect("a sync");

    let lmdb_directory = directory.path().join("lmdb");
    std::fs::create_dir(&lmdb_directory).expect("a directory");
    // SAFETY: the directory is new, and nothing else touches it.
    let environment = unsafe { EnvOpenOptions::new().map_size(4 << 30).max_dbs(1).open(lmdb_directory) };
    let environment = environment.expect("an environment");
    let transaction = environment.write_txn().expect("a transaction");
    let table: Database<RawBytes, RawBytes> = environment
        .create_databases_and_commit(transaction, |opener, transaction| {
            let table = opener.create_database(transaction, Some("table"))?;
            Ok::<_, heed::Error>(CommitOrAbort::<_, ()>::Commit(table))
        })
        .expect("a database")
        .unwrap_commit();

    let mut store = Store::open_directory(directory.path(), STORE_BYTES).expect("a store");

    let mut key_number = 0_u64;
    for (write_count, value_bytes) in SHAPES {
        let mut times: [Vec<Duration>; 3] = Default::default();
        let mut offset = 0;
        for _ in 0..ROUND_COUNT {
            let writes: Vec<Write> = (0..write_count)
                .map(|_| {
                    key_number += 1;
                    // Scattered keys, as those of rows in many collections.
                    let key = key_number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes().to_vec();
                    let value = Some(Bytes::from(vec![key_number as u8; value_bytes]));
                    Write { keyspace: Keyspace::Values, key, value }
                })
                .collect();
            let bytes: Vec<u8> =
                writes.iter().flat_map(|write| write.value.as_ref().expect("a value").to_vec()).collect();

            let start = Instant::now();
            if offset + bytes.len() > FILE_BYTES {
                offset = 0;
            }
            file.write_all_at(&bytes, offset as u64).expect("a write");
            file.sync_data().expect("a sync");
            offset += bytes.len();
            times[0].push(start.elapsed());

            let start = Instant::now();
            let mut transaction = environment.write_txn().expect("a transaction");
            for write in &writes {
                table
                    .put(&mut transaction, &write.key, write.value.as_ref().expect("a value"))
                    .expect("a put");
            }
            transaction.commit().expect("a commit");
            times[1].push(start.elapsed());

            let start = Instant::now();
            store.commit(&[writes]).expect("a commit");
            times[2].push(start.elapsed());
        }
        for (name, mut times) in ["fdatasync", "LMDB", "Store"].into_iter().zip(times) {
            times.sort();
            let [p50, p90, p99, max] =
                [50, 90, 99, 100].map(|percent| times[(times.len() - 1) * percent / 100].as_secs_f64() * 1e3);
            let shape = format!("{write_count} x {value_bytes} bytes");
            println!("{shape:>24} {name:>12} {p50:>9.3} {p90:>9.3} {p99:>9.3} {max:>9.3}");
        }
    }

    let reader = store.reader();
    let read_count = 200_000;
    for (name, is_checkpointed) in [("log and checkpoint", false), ("checkpoint only", true)] {
        if is_checkpointed {
            store.checkpoint().expect("a checkpoint");
        }
        let start = Instant::now();
        for number in 1..=read_count {
            let key = (key_number * number / read_count).max(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let value = reader.get(Keyspace::Values, &key.to_be_bytes()).expect("a read");
            assert!(value.is_some());
        }
        println!(
            "{name:>24} {:>12} {:>9.2} µs",
            "get",
            start.elapsed().as_secs_f64() * 1e6 / read_count as f64
        );
    }
    store.close().expect("a close");
}
