//! Everything that is stored, read and checked: what `tinychain verify` does, and what is done after a restore.
//!
//! ```text
//!  every chain that was ever stored, served or not
//!    value        its last whole form and the changes since; with a history, what that makes of the initial value
//!    history      each block: its transactions, its hash, what it follows; what is remembered of it
//!    collections  each page: its rows, their order and place; each index against the rows; the effects since
//!  pages          that belong to nothing
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};

use components::hosting::cluster::ChainSpec;
use components::hosting::storage::{Keyspace, Read};
use components::language::chain::{BlockPredecessor, ChainAddress, ChainKind, FIRST_BLOCK};
use components::language::encode::Stored;
use components::language::tbon;
use components::rows::columns::Columns;
use components::rows::key::Key;
use components::rows::page::Page;
use components::rows::schema::{Layout, Schema};
use components::rows::stored;
use components::value::ids::{ChainId, PageId};
use components::{Id, Path, State, TxnId, Value};
use systems::execute::panic_message;
use xxhash_rust::xxh3::xxh3_128;

use crate::load::{
    LoadedChain, each_entry, each_entry_of, load_chain, load_page, predecessor, read_block, stored_catalog,
    stored_garbage,
};

/// How many pages are in memory at a time.
const SCAN_PAGES: usize = 64;

/// What was looked at, and what is wrong with it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Verified {
    /// Chains.
    pub chains: u64,
    /// Blocks of histories.
    pub blocks: u64,
    /// Transactions in them.
    pub transactions: u64,
    /// Pages of collections.
    pub pages: u64,
    /// Rows in them, those of indices not counted.
    pub rows: u64,
    /// Pages that belong to nothing: they take space, and are no damage.
    pub lost_pages: u64,
    /// What is damaged, and why: chains by their addresses.
    pub damages: Vec<(String, String)>,
}

impl Verified {
    /// Whether nothing is damaged.
    pub fn is_sound(&self) -> bool {
        self.damages.is_empty()
    }

    fn damage(&mut self, what: &str, why: impl Into<String>) {
        self.damages.push((what.to_string(), why.into()));
    }
}

/// How far it is: blocks and pages that were read, and how many there are.
pub type Progress<'a> = dyn FnMut(u64, u64) + 'a;

/// Check everything that is stored.
pub fn verify(storage: &dyn Read, progress: &mut Progress) -> Verified {
    let mut verified = Verified::default();
    let known = match stored_catalog(storage) {
        Ok(known) => known,
        Err(why) => {
            verified.damage("the catalog", why);
            return verified;
        }
    };
    let mut work = Work { done: 0, all: 0, progress };
    for (id, kind, _) in known.values() {
        work.all += count_handles(storage, *id);
        if kind == ChainKind::Block.class().path() {
            work.all += count_blocks(storage, *id);
        }
    }
    let mut pages = BTreeSet::new();
    let mut are_pages_known = true;
    for (address, (id, kind, initial)) in &known {
        verified.chains += 1;
        let mut checker =
            Checker { storage, id: *id, work: &mut work, found: Verified::default(), pages: &mut pages };
        // A check that is missing must not hide what the others find.
        let checked = catch_unwind(AssertUnwindSafe(|| checker.check(address, kind, initial)));
        let checked =
            checked.unwrap_or_else(|panic| Err(format!("it cannot be read: {}", panic_message(&*panic))));
        let Verified { blocks, transactions, pages, rows, damages, .. } = checker.found;
        verified.blocks += blocks;
        verified.transactions += transactions;
        verified.pages += pages;
        verified.rows += rows;
        are_pages_known &= checked.is_ok() && damages.is_empty();
        verified.damages.extend(damages.into_iter().map(|(_, why)| (address.clone(), why)));
        if let Err(why) = checked {
            verified.damage(address, why);
        }
    }
    if let Err(why) = check_other_pages(storage, &pages, are_pages_known, &mut verified) {
        verified.damage("pages", why);
    }
    verified
}

/// Pages that are in no tree, and entries of chains that nobody knows.
fn check_other_pages(
    storage: &dyn Read,
    pages: &BTreeSet<PageId>,
    are_pages_known: bool,
    verified: &mut Verified,
) -> Result<(), String> {
    let garbage: BTreeSet<PageId> = stored_garbage(storage)?.into_iter().collect();
    let mut lost = 0;
    each_entry_of(storage, Keyspace::Pages, &[], SCAN_PAGES, |key, _| {
        let page = key.try_into().map(u64::from_be_bytes).map(PageId);
        let page = page.map_err(|_| "the key of a page is malformed".to_string())?;
        lost += u64::from(!pages.contains(&page) && !garbage.contains(&page));
        Ok(())
    })?;
    // Of a damaged chain it is not known which pages it has.
    verified.lost_pages = if are_pages_known { lost } else { 0 };
    Ok(())
}

fn count_handles(storage: &dyn Read, id: ChainId) -> u64 {
    let mut count = 0;
    // What cannot be read is found when it is checked.
    let _ = each_entry(storage, Keyspace::Trees, &stored::handle_prefix(id), |_, _| {
        count += 1;
        Ok(())
    });
    count
}

fn count_blocks(storage: &dyn Read, id: ChainId) -> u64 {
    (0..).take_while(|ordinal| matches!(predecessor(storage, id, *ordinal), Ok(Some(_)))).count() as u64
}

struct Work<'a, 'p> {
    done: u64,
    all: u64,
    progress: &'a mut Progress<'p>,
}

impl Work<'_, '_> {
    fn step(&mut self) {
        self.done += 1;
        (self.progress)(self.done.min(self.all), self.all);
    }
}

/// Checks one chain.
struct Checker<'a, 'w, 'p> {
    storage: &'a dyn Read,
    id: ChainId,
    work: &'a mut Work<'w, 'p>,
    found: Verified,
    pages: &'a mut BTreeSet<PageId>,
}

impl Checker<'_, '_, '_> {
    fn check(&mut self, address: &str, kind: &str, initial: &State) -> Result<(), String> {
        let kinds = [ChainKind::Sync, ChainKind::Block];
        let kind = kinds.into_iter().find(|one| one.class().path() == kind);
        let kind = kind.ok_or_else(|| format!("there is no kind of chain {kind:?}"))?;
        let spec = ChainSpec { address: parse_address(address)?, kind, schema: initial.clone() };
        let history = match kind {
            ChainKind::Block => Some(self.check_history(initial, spec.collections().is_empty())?),
            ChainKind::Sync => None,
        };
        let chain = load_chain(self.storage, self.id, spec, &mut Vec::new())?;
        if let Some(History { newest, subject }) = history {
            if newest != chain.last {
                return Err(format!("its history ends with {newest}, but it ends with {}", chain.last));
            }
            if let Some(subject) = subject
                && tbon::encode(&Stored(&subject)) != tbon::encode(&Stored(&chain.subject))
            {
                return Err("its subject is not what its history makes of the initial value".to_string());
            }
        }
        self.check_collections(&chain)
    }

    /// Read every block, whatever is remembered of it; of a value, repeat what is recorded.
    fn check_history(&mut self, initial: &State, is_value: bool) -> Result<History, String> {
        let mut newest = TxnId::ZERO;
        let mut subject = is_value.then(|| initial.clone());
        let mut hash = FIRST_BLOCK.to_vec();
        for ordinal in 0.. {
            let Some(before) = predecessor(self.storage, self.id, ordinal)? else { break };
            if before.hash().map_or_else(Vec::new, |hash| hash.to_vec()) != hash {
                return Err(format!("block {ordinal} does not follow the block before it"));
            }
            let read = read_block(self.storage, self.id, ordinal, newest, &mut |_, mutation| {
                if let Some(subject) = &mut subject {
                    *subject = mutation.repeat(subject)?;
                }
                Ok(())
            })?;
            newest = read.newest;
            let hasher = read.hasher;
            if let Some(BlockPredecessor::Known(closed)) = predecessor(self.storage, self.id, ordinal + 1)?
                && (closed.bytes, closed.transactions, closed.newest)
                    != (hasher.bytes(), read.transactions, newest)
            {
                return Err(format!("block {ordinal} is not what is remembered of it"));
            }
            hash = hasher.hash().to_vec();
            self.found.blocks += 1;
            self.found.transactions += read.transactions;
            self.work.step();
        }
        Ok(History { newest, subject })
    }

    fn check_collections(&mut self, chain: &LoadedChain) -> Result<(), String> {
        for (slot, (schema, trees)) in chain.collections.slots.iter().enumerate() {
            let mut entries: Vec<Entries> = Vec::new();
            for (number, tree) in trees.iter().enumerate() {
                let mut all = Entries::default();
                let pages: Vec<_> = tree.iter().collect();
                for (i, (low, page)) in pages.iter().enumerate() {
                    let next = pages.get(i + 1).map(|(low, _)| *low);
                    let checked = self.check_page(schema, number, low, next, page, &mut all);
                    if let Err(why) = checked {
                        let name = page.base.as_ref().map_or(0, |base| base.id().0);
                        self.found
                            .damage("", format!("tree {number} of collection {slot}: page {name}: {why}"));
                    }
                }
                if number == 0 {
                    self.found.rows += all.count;
                }
                entries.push(all);
            }
            let Some((primary, indices)) = entries.split_first() else { continue };
            for (i, index) in indices.iter().enumerate() {
                let expected = primary.in_indices.get(i).copied().unwrap_or_default();
                if (index.count, index.sum) != (primary.count, expected) {
                    let name = &schema.indices()[i].name;
                    self.found.damage(
                        "",
                        format!(
                            "the index {name} of collection {slot} does not have the entries of its rows"
                        ),
                    );
                }
            }
        }
        Ok(())
    }

    fn check_page(
        &mut self,
        schema: &Schema,
        tree: usize,
        low: &Key,
        next: Option<&Key>,
        page: &Page,
        all: &mut Entries,
    ) -> Result<(), String> {
        let layout = &schema.layouts()[tree];
        let base = match &page.base {
            None => None,
            Some(cell) => {
                self.pages.insert(cell.id());
                self.work.step();
                self.found.pages += 1;
                let content = load_page(self.storage, cell.id(), &layout.types)?;
                if content.len() != cell.rows() {
                    return Err(format!(
                        "it has {} rows, but its handle says {}",
                        content.len(),
                        cell.rows()
                    ));
                }
                check_order(&content, layout, low, next)?;
                Some(content)
            }
        };
        // What the effects since say is on top of it.
        let mut changes: BTreeMap<&[u8], Option<&[Value]>> = BTreeMap::new();
        for entry in page.delta.iter() {
            changes.insert(&entry.key, entry.row.as_deref());
        }
        let mut rows = 0;
        for row in 0..base.as_ref().map_or(0, Columns::len) {
            let content = base.as_ref().expect("a base");
            if !changes.contains_key(&content.key(layout, row)[..]) {
                all.add(schema, tree, &content.row(row));
                rows += 1;
            }
        }
        for row in changes.values().flatten() {
            all.add(schema, tree, row);
            rows += 1;
        }
        if rows != page.rows {
            return Err(format!("there are {rows} rows in it, not {}", page.rows));
        }
        Ok(())
    }
}

struct History {
    newest: TxnId,
    /// Of a value.
    subject: Option<State>,
}

/// The rows of a tree, and what the indices must have because of them: sums of hashes do not depend on the order.
#[derive(Default)]
struct Entries {
    count: u64,
    sum: u128,
    /// Of the primary tree, for each index.
    in_indices: Vec<u128>,
}

impl Entries {
    fn add(&mut self, schema: &Schema, tree: usize, row: &[Value]) {
        let hash = |layout: &Layout, row: &[Value]| xxh3_128(&Key::of_prefix(layout, row));
        let layouts = schema.layouts();
        self.count += 1;
        self.sum = self.sum.wrapping_add(hash(&layouts[tree], row));
        if tree > 0 {
            return;
        }
        self.in_indices.resize(layouts.len() - 1, 0);
        for (sum, layout) in self.in_indices.iter_mut().zip(&layouts[1..]) {
            let entry: Vec<Value> = layout.columns.iter().map(|column| row[*column].clone()).collect();
            *sum = sum.wrapping_add(hash(layout, &entry));
        }
    }
}

/// Check that the keys of a page ascend, and lie where the page does.
fn check_order(content: &Columns, layout: &Layout, low: &Key, next: Option<&Key>) -> Result<(), String> {
    let mut before: Option<Key> = None;
    for row in 0..content.len() {
        let key = content.key(layout, row);
        if before.as_ref().is_some_and(|before| *before >= key) {
            return Err(format!("row {row} is not after the one before it"));
        }
        if key < *low || next.is_some_and(|next| key >= *next) {
            return Err(format!("row {row} does not belong into it"));
        }
        before = Some(key);
    }
    Ok(())
}

fn parse_address(text: &str) -> Result<ChainAddress, String> {
    let malformed = || format!("{text:?} is no address of a chain");
    let (cluster, name) = text.rsplit_once('/').ok_or_else(malformed)?;
    let cluster = Path::parse(cluster).map_err(|_| malformed())?;
    Ok(ChainAddress { cluster, name: Id::parse(name).map_err(|_| malformed())? })
}
