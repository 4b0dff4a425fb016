//! A chain of which what is stored does not verify is refused by name, and all else is served. What is stored is changed
//! here as the host itself would change it, so that no checksum of the storage is in the way.

use std::cell::Cell;

use bytes::Bytes;
use components::hosting::cluster::{Catalog, ClusterConfig};
use components::hosting::storage::{Keyspace, Read, Write};
use components::language::chain::BlockPredecessor;
use components::value::ids::ChainId;
use io::json;
use serde_json::{Value, json};
use world::load::{Loaded, load};
use world::verify::{Verified, verify};

use crate::machine::{Machine, MachineOptions, get, on_program_stack, post, put};
use crate::services::{after, post_method};

/// So that four of them fill a block.
const TEXT_BYTES: usize = 300_000;

/// Enough for three closed blocks and an open one.
const TEXTS: usize = 14;

const TEXT: &str = "/app/hurt/text";
const ROWS: &str = "/app/hurt/rows";
const MAP: &str = "/app/hurt/map";
const LOG: &str = "/app/well/log";

fn services() -> Value {
    let number = json!({ "/state/scalar/value/number/int/64": {} });
    let string = json!({ "/state/scalar/value/string": {} });
    let schema = json!([[[["k", number]], [["s", string, 40_000]]], [["by_s", ["s"]]]]);
    json!({
        "/app/hurt": {
            "text": { "/state/chain/block": [""] },
            "rows": { "/state/chain/block": [{ "/state/collection/table": [schema] }] },
            "map": { "/state/chain/sync": [{ "a": "" }] },
        },
        "/app/well": {
            "log": { "/state/chain/block": [0] },
            // Copies what is in the other service.
            "copy": post_method(json!([
                ["text", { (TEXT): [null] }],
                ["_return", after(json!({ "$self/log": [null, 1] }), json!({ "$text": [] }))],
            ])),
        },
    })
}

/// A machine with a long history in [`TEXT`], pages and effects in [`ROWS`], and changes of [`MAP`] beside it.
fn machine() -> Machine {
    let mut options = MachineOptions::new(5, &services());
    options.limits.effects_bytes_max = 200_000;
    let mut machine = Machine::new(options);
    for i in 0..TEXTS {
        let text = char::from(b'a' + i as u8).to_string().repeat(TEXT_BYTES);
        assert_eq!(machine.call(put(TEXT, json!(text))).0, 200);
    }
    for i in 0..40 {
        let row = crate::machine::request(
            components::language::reference::Verb::Put,
            ROWS,
            json!([i]),
            json!([i.to_string().repeat(4_000)]),
        );
        assert_eq!(machine.call(row).0, 200);
    }
    for i in 0..4 {
        let name = format!("n{i}");
        let entry = crate::machine::request(
            components::language::reference::Verb::Put,
            MAP,
            json!(name),
            json!("x".repeat(10_000 - i)),
        );
        assert_eq!(machine.call(entry).0, 200);
    }
    machine.settle(vec![]);
    machine
}

/// What is stored, with the key.
type Entry = (Vec<u8>, Bytes);

fn entries(machine: &Machine, keyspace: Keyspace) -> Vec<Entry> {
    Read::scan(&machine.reader(), keyspace, &[], None, usize::MAX).expect("a disk without faults")
}

/// The number of a chain, big endian.
fn number(address: &str) -> [u8; 4] {
    // Chains are numbered in order of their names.
    let all = [MAP, ROWS, TEXT, LOG];
    (all.iter().position(|one| *one == address).expect("a chain") as u32).to_be_bytes()
}

/// The headers of the blocks of a chain, and their transactions.
fn history(machine: &Machine, address: &str) -> (Vec<Entry>, Vec<Entry>) {
    let all = entries(machine, Keyspace::Blocks).into_iter();
    all.filter(|(key, _)| key.starts_with(&number(address))).partition(|(key, _)| key.len() == 8)
}

fn set(keyspace: Keyspace, key: &[u8], value: impl Into<Bytes>) -> Write {
    Write { keyspace, key: key.to_vec(), value: Some(value.into()) }
}

fn delete(keyspace: Keyspace, key: &[u8]) -> Write {
    Write { keyspace, key: key.to_vec(), value: None }
}

/// With another byte in the middle of the text that it records.
fn changed(value: &Bytes) -> Vec<u8> {
    let mut bytes = value.to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    bytes
}

/// As earlier versions stored it: it is not known of any block that it was verified.
fn forget(machine: &mut Machine, address: &str) {
    let (headers, _) = history(machine, address);
    let short = headers.iter().map(|(key, value)| {
        let hash = BlockPredecessor::decode(value).expect("a header").hash();
        set(Keyspace::Blocks, key, hash.map_or_else(Vec::new, |hash| hash.to_vec()))
    });
    let short = short.collect();
    machine.tamper(short);
}

fn verified(machine: &Machine) -> Verified {
    verify(&machine.reader(), &mut |done, all| assert!(done <= all))
}

/// Check that this chain alone is refused, that it says so, and that all else goes on.
fn check_refused(machine: &mut Machine, address: &str, why: &str) {
    machine.rebuild();
    let refused = machine.refused();
    assert_eq!(refused.keys().collect::<Vec<_>>(), [address]);
    let reason = refused[address].as_str().expect("a reason");
    assert!(reason.contains(why), "{reason:?} does not say {why:?}");
    for path in [address.to_string(), format!("{address}/chain")] {
        let (status, body) = machine.call(get(&path));
        assert_eq!(status, 503);
        let message = body.as_str().expect("a message");
        assert!(message.contains(address) && message.contains(why), "{message}");
    }
    assert_eq!(machine.call(put(address, json!(["x"]))).0, 503);
    for other in [MAP, ROWS, TEXT, LOG].into_iter().filter(|other| *other != address) {
        assert_eq!(machine.call(get(other)).0, 200, "{other}");
    }
    assert_eq!(machine.call(put(LOG, json!(7))), (200, Value::Null));
    assert_eq!(machine.value(LOG), json!(7));
    // What needs it has no effect.
    let copied = machine.call(post("/app/well/copy", json!({})));
    match address {
        TEXT => assert_eq!((copied.0, machine.value(LOG)), (503, json!(7))),
        _ => assert_eq!((copied.0, machine.value(LOG)), (200, json!(1))),
    }
    let damages = verified(machine).damages;
    assert!(!damages.is_empty() && damages.iter().all(|(what, _)| what == address), "{damages:?}");
}

#[test]
fn what_is_sound_verifies() {
    on_program_stack(|| {
        let mut machine = machine();
        let found = verified(&machine);
        assert_eq!(found.damages, []);
        assert_eq!((found.chains, found.rows, found.lost_pages), (4, 40, 0));
        assert!(found.blocks >= 6 && found.transactions == TEXTS as u64 + 40 && found.pages > 0, "{found:?}");
        machine.rebuild();
        assert!(machine.refused().is_empty());
        assert_eq!(verified(&machine), found);
    });
}

#[test]
fn tampered_blocks_are_refused_by_name() {
    type Tamper = fn(&Machine) -> Vec<Write>;
    let cases: [(&str, Tamper); 8] = [
        ("block 2 does not follow the block before it", |machine| {
            let (headers, transactions) = history(machine, TEXT);
            let (key, value) = transactions.iter().find(|(key, _)| key.starts_with(&headers[1].0)).unwrap();
            vec![set(Keyspace::Blocks, key, changed(value))]
        }),
        ("block 2 does not follow the block before it", |machine| {
            let (headers, _) = history(machine, TEXT);
            vec![set(Keyspace::Blocks, &headers[2].0, [7; 32].to_vec())]
        }),
        ("the header of block 2 is malformed", |machine| {
            let (headers, _) = history(machine, TEXT);
            vec![set(Keyspace::Blocks, &headers[2].0, [7; 31].to_vec())]
        }),
        ("the header of block 2 is missing", |machine| {
            let (headers, _) = history(machine, TEXT);
            vec![delete(Keyspace::Blocks, &headers[2].0)]
        }),
        ("its first block is missing", |machine| {
            let (headers, _) = history(machine, TEXT);
            vec![delete(Keyspace::Blocks, &headers[0].0)]
        }),
        ("which is not after", |machine| {
            // A transaction of the open block gets the place of an older one.
            let (headers, transactions) = history(machine, TEXT);
            let open = &headers.last().unwrap().0;
            let (key, value) = transactions.iter().find(|(key, _)| key.starts_with(open)).unwrap();
            let older = [&open[..], &transactions[0].0[8..]].concat();
            vec![delete(Keyspace::Blocks, key), set(Keyspace::Blocks, &older, value.clone())]
        }),
        ("its history ends with", |machine| {
            let (_, transactions) = history(machine, TEXT);
            vec![delete(Keyspace::Blocks, &transactions.last().unwrap().0)]
        }),
        ("invalid TBON", |machine| {
            let (_, transactions) = history(machine, TEXT);
            let (key, value) = transactions.last().unwrap();
            vec![set(Keyspace::Blocks, key, value.slice(..value.len() / 2))]
        }),
    ];
    for (why, tamper) in cases {
        on_program_stack(|| {
            let mut machine = machine();
            forget(&mut machine, TEXT);
            let writes = tamper(&machine);
            machine.tamper(writes);
            check_refused(&mut machine, TEXT, why);
        });
    }
}

#[test]
fn what_is_damaged_beside_blocks_is_refused_by_name() {
    type Tamper = fn(&Machine) -> Vec<Write>;
    fn values(machine: &Machine, address: &str, part: u8) -> Vec<Entry> {
        let prefix = [&number(address)[..], &[part]].concat();
        let all = entries(machine, Keyspace::Values).into_iter();
        all.filter(|(key, _)| key.starts_with(&prefix)).collect()
    }
    fn handles(machine: &Machine) -> Vec<Entry> {
        let all = entries(machine, Keyspace::Trees).into_iter();
        all.filter(|(key, _)| key.starts_with(&number(ROWS))).collect()
    }
    let cases: [(&str, &str, Tamper); 9] = [
        (MAP, "its subject is missing", |machine| {
            vec![delete(Keyspace::Values, &values(machine, MAP, 0)[0].0)]
        }),
        (MAP, "its subject is malformed", |machine| {
            vec![set(Keyspace::Values, &values(machine, MAP, 0)[0].0, &b"[]"[..])]
        }),
        (MAP, "transaction", |machine| {
            let (key, value) = values(machine, MAP, 1).pop().expect("changes beside the subject");
            vec![set(Keyspace::Values, &key, value.slice(..value.len() - 1))]
        }),
        (MAP, "is stored after", |machine| {
            let (key, value) = values(machine, MAP, 1).pop().expect("changes beside the subject");
            let older = [&key[..5], &[0; 10]].concat();
            vec![set(Keyspace::Values, &older, value)]
        }),
        (ROWS, "effects are malformed", |machine| {
            let (key, value) = values(machine, ROWS, 2).pop().expect("effects");
            vec![set(Keyspace::Values, &key, value.slice(..value.len() - 1))]
        }),
        (ROWS, "are stored after those of", |machine| {
            let (mut key, value) = values(machine, ROWS, 2).pop().expect("effects");
            *key.last_mut().unwrap() += 1;
            vec![set(Keyspace::Values, &key, value)]
        }),
        (ROWS, "handle of page", |machine| {
            let (key, value) = handles(machine).pop().expect("pages");
            vec![set(Keyspace::Trees, &key, value.slice(..10))]
        }),
        (ROWS, "its first page is missing", |machine| {
            // The first page has the empty key at the end of its handle, so its handle is the shortest one.
            let all = handles(machine);
            let primary = all.iter().filter(|(key, _)| key[6..8] == [0, 0]);
            let (key, _) = primary.min_by_key(|(_, value)| value.len()).expect("pages");
            vec![delete(Keyspace::Trees, key)]
        }),
        (ROWS, "which it lacks", |machine| {
            let (mut key, value) = handles(machine).pop().expect("pages");
            key[7] = 9;
            vec![set(Keyspace::Trees, &key, value)]
        }),
    ];
    for (address, why, tamper) in cases {
        on_program_stack(|| {
            let mut machine = machine();
            let writes = tamper(&machine);
            machine.tamper(writes);
            check_refused(&mut machine, address, why);
        });
    }
}

/// What is known to be verified is not read at the start, so damage there is an error of those who read it.
#[test]
fn damage_in_what_was_verified_is_an_error_of_the_read_and_found_by_verify() {
    on_program_stack(|| {
        let mut machine = machine();
        let (headers, transactions) = history(&machine, TEXT);
        let (key, value) = transactions.iter().find(|(key, _)| key.starts_with(&headers[1].0)).unwrap();
        machine.tamper(vec![set(Keyspace::Blocks, key, changed(value))]);
        machine.rebuild();
        assert!(machine.refused().is_empty());
        let damages = verified(&machine).damages;
        assert_eq!(damages.len(), 1);
        assert_eq!(damages[0], (TEXT.to_string(), "block 2 does not follow the block before it".to_string()));
        assert_eq!(machine.call(put(TEXT, json!("more"))).0, 200);
        assert_eq!(machine.value(TEXT), json!("more"));
    });
}

/// Only `verify` can know that a subject is not what its history says, or an index not what its rows say.
#[test]
fn verify_compares_what_is_stored_twice() {
    on_program_stack(|| {
        let mut machine = machine();
        let key = [&number(TEXT)[..], &[0]].concat();
        let all = entries(&machine, Keyspace::Values);
        let (_, subject) = all.iter().find(|(found, _)| *found == key).expect("a subject");
        machine.tamper(vec![set(Keyspace::Values, &key, changed(subject))]);
        let damages = verified(&machine).damages;
        assert_eq!(damages.len(), 1, "{damages:?}");
        assert_eq!(damages[0].0, TEXT);
        assert!(damages[0].1.contains("not what its history makes"), "{damages:?}");
    });
    on_program_stack(|| {
        let mut machine = machine();
        // The pages of the index are exchanged for those of an index with one page less.
        let all = entries(&machine, Keyspace::Trees);
        let index: Vec<_> =
            all.iter().filter(|(key, _)| key.starts_with(&number(ROWS)) && key[6..8] == [0, 1]).collect();
        assert!(index.len() > 1, "an index of one page");
        let (key, _) = index.iter().max_by_key(|(_, value)| value.len()).unwrap();
        machine.tamper(vec![delete(Keyspace::Trees, key)]);
        let damages = verified(&machine).damages;
        assert!(damages.iter().all(|(what, _)| what == ROWS), "{damages:?}");
        assert!(damages.iter().any(|(_, why)| why.contains("the index by_s")), "{damages:?}");
    });
}

/// Counts what is read of blocks, and knows of a chain that it is not whole.
struct Counting<R> {
    storage: R,
    block_bytes: Cell<usize>,
    damaged: Option<ChainId>,
}

impl<R: Read> Read for Counting<R> {
    fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Bytes>, String> {
        self.storage.get(keyspace, key)
    }

    fn scan(
        &self,
        keyspace: Keyspace,
        prefix: &[u8],
        from: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, Bytes)>, String> {
        let entries = self.storage.scan(keyspace, prefix, from, limit)?;
        if keyspace == Keyspace::Blocks {
            let bytes = entries.iter().map(|(_, value)| value.len()).sum::<usize>();
            self.block_bytes.set(self.block_bytes.get() + bytes);
        }
        Ok(entries)
    }

    fn damage(&self, chain: ChainId) -> Option<String> {
        (self.damaged == Some(chain)).then(|| "an entry is missing".to_string())
    }
}

/// What a start makes of what is stored, of which a chain may not be whole; and how many bytes of blocks it reads.
fn loaded(machine: &Machine, damaged: Option<ChainId>) -> (Loaded, usize) {
    let storage = Counting { storage: machine.reader(), block_bytes: Cell::new(0), damaged };
    let configs =
        json::with_copy(services().to_string().as_bytes(), ClusterConfig::decode).expect("clusters");
    let loaded = load(&storage, configs, Catalog::new("http://127.0.0.1:8702", [1; 32]), |_| [2; 32]);
    (loaded.expect("what is stored is sound"), storage.block_bytes.get())
}

/// How many bytes of blocks a start reads, and how many writes it asks for.
fn start_reads(machine: &Machine) -> (usize, Vec<Write>) {
    let (loaded, block_bytes) = loaded(machine, None);
    (block_bytes, loaded.writes)
}

#[test]
fn a_start_reads_only_blocks_that_are_not_known_to_be_verified() {
    on_program_stack(|| {
        let mut machine = machine();
        // The open block alone.
        let (bytes, writes) = start_reads(&machine);
        assert!(bytes < 4 * TEXT_BYTES, "{bytes} bytes are read");
        assert!(writes.is_empty());
        // Data of an earlier version is read once.
        forget(&mut machine, TEXT);
        let (bytes, writes) = start_reads(&machine);
        assert!(bytes > TEXTS * TEXT_BYTES, "only {bytes} bytes are read");
        assert_eq!(writes.len(), history(&machine, TEXT).0.len() - 1);
        machine.rebuild();
        let (bytes, writes) = start_reads(&machine);
        assert!(bytes < 4 * TEXT_BYTES, "{bytes} bytes are read");
        assert!(writes.is_empty());
        assert_eq!(verified(&machine).damages, []);
    });
}

/// The storage knows how many entries each chain must have, and says so if some are missing.
#[test]
fn a_chain_that_is_not_whole_is_refused_and_no_name_of_its_pages_is_given_again() {
    on_program_stack(|| {
        let machine = machine();
        let (whole, _) = loaded(&machine, None);
        assert!(whole.catalog.refused.is_empty());
        let damaged = ChainId(u32::from_be_bytes(number(ROWS)[..4].try_into().expect("four bytes")));
        let (other, _) = loaded(&machine, Some(damaged));
        assert_eq!(other.catalog.refused.keys().collect::<Vec<_>>(), [&damaged]);
        assert_eq!(&*other.catalog.refused[&damaged], "an entry is missing");
        assert_eq!(other.chains.len() + 1, whole.chains.len(), "all others are served");
        assert!(
            other.last_page.0 > whole.last_page.0 + (1 << 20),
            "pages of which nothing is known keep their names"
        );
    });
}
