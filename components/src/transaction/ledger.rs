//! The ledger of a transaction: what it has locked, read and written, and what it may still spend.
//!
//! It is shared by the program of the transaction, which asks, and the world, which answers between two polls of
//! the program; they never run at the same time.

mod rows;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::job::{Job, JobResult};
use super::lock::{LockMode, Resource};
use crate::language::chain::{Mutation, Recorded, SeenHistory};
use crate::language::memory::Account;
use crate::language::state::State;
use crate::rows::delta::Visibility;
use crate::value::error::{Error, Result};
use crate::value::ids::{ChainId, HostedCollection, PageId};
use crate::value::transaction_id::TxnId;

pub use rows::{LOCKED_KEYS_MAX, MayChange, Reading, RowsChange};

use crate::value::limits::TRANSACTION_BYTES_MAX;

/// What a program asks the world for.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Want {
    /// A lock.
    Lock(Resource, LockMode),
    /// Which blocks there are of a chain on which it has a lock.
    History(ChainId),
    /// The content of a page.
    Page(PageId),
    /// To begin again: what it would see is gone.
    Restart,
}

/// What a transaction sees of a chain around a value.
#[derive(Clone, Debug)]
pub struct View {
    /// The lock that was granted.
    pub mode: LockMode,
    /// The subject, with the transaction's own changes.
    pub subject: State,
    /// The transaction's own changes, in order.
    pub mutations: Vec<Mutation>,
}

/// What a transaction has changed of a chain.
#[derive(Debug)]
pub struct Change {
    /// The chain.
    pub chain: ChainId,
    /// The subject after it.
    pub content: ChangedContent,
}

/// The content of a changed subject.
#[derive(Debug)]
pub enum ChangedContent {
    /// The new value, and what has made it.
    Value(State, Vec<Mutation>),
    /// The changed rows of each collection, and what the history records.
    Rows(Vec<(u16, RowsChange)>, Recorded),
}

/// A write to a chain around collections that is under way or waits for its turn.
#[derive(Debug)]
pub struct WriteTurn {
    chain: ChainId,
    number: u64,
}

/// The writes of one chain in order, and whether each must be alone.
#[derive(Debug, Default)]
struct Turns {
    last: u64,
    /// In the order of their numbers: most often there is one.
    waiting: Vec<(u64, bool)>,
}

#[derive(Debug, Default)]
struct Content {
    views: BTreeMap<ChainId, View>,
    collections: BTreeMap<HostedCollection, Box<rows::RowsView>>,
    /// What the histories of chains around collections are to record.
    recorded: BTreeMap<ChainId, Recorded>,
    /// The writes of chains around collections that are under way or wait for their turn.
    writing: BTreeMap<ChainId, Turns>,
    /// The histories of chains as they were committed, once they were asked for.
    histories: BTreeMap<ChainId, SeenHistory>,
    asked: BTreeSet<Want>,
    wants: Vec<Want>,
    fuel: u64,
    out_of_fuel: bool,
    bytes: u64,
    /// The newest commit that was read.
    seen_commit: u64,
    /// Collections whose rows are locked for writing when they are read.
    for_update: BTreeSet<HostedCollection>,
    /// Collections with rows that were read first and written then.
    upgraded: BTreeSet<HostedCollection>,
    /// Jobs that were not begun yet, by their numbers in the transaction.
    jobs: Vec<(u32, Job)>,
    /// The results of jobs that are done.
    job_results: BTreeMap<u32, JobResult>,
    jobs_submitted: u32,
    /// How often its changes lay scattered, as far as that matters.
    scattered: u32,
    /// Pages that were stored for the transaction and can go.
    freed_pages: Vec<PageId>,
    /// How many rows its writes have touched, if there were any.
    rows_written: Option<u64>,
}

/// See the module.
#[derive(Debug)]
pub struct Ledger {
    visibility: Visibility,
    /// The tick in which the program has its fuel.
    tick: AtomicU64,
    content: Mutex<Content>,
}

impl Ledger {
    /// An empty ledger without fuel. Rows of the collections `for_update` are expected to be written after they were
    /// read.
    pub fn new(visibility: Visibility, for_update: BTreeSet<HostedCollection>) -> Self {
        Self {
            visibility,
            tick: AtomicU64::new(0),
            content: Mutex::new(Content { for_update, ..Default::default() }),
        }
    }

    /// The transaction.
    pub fn id(&self) -> TxnId {
        self.visibility.before
    }

    /// What it sees of what others have committed.
    pub fn visibility(&self) -> Visibility {
        self.visibility
    }

    // A program that panics is never polled again, so its ledger is only read for what it had locked.
    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // For the program.

    /// Spend fuel; false if there was none left, then the program must yield.
    pub fn spend(&self, fuel: u64) -> bool {
        let content = &mut *self.content();
        if content.fuel == 0 {
            content.out_of_fuel = true;
            return false;
        }
        content.fuel = content.fuel.saturating_sub(fuel);
        true
    }

    /// Take fuel for work that is done already; if nothing is left, the next step yields.
    pub fn charge(&self, fuel: u64) {
        let content = &mut *self.content();
        content.fuel = content.fuel.saturating_sub(fuel);
    }

    /// A write has touched so many hosted rows, or values of chains.
    pub fn note_written(&self, rows: u64) {
        let content = &mut *self.content();
        content.rows_written = Some(content.rows_written.unwrap_or(0) + rows);
    }

    /// The subject of a chain if it is locked so, else ask for the lock.
    pub fn subject(&self, chain: ChainId, mode: LockMode) -> Option<State> {
        let content = &mut *self.content();
        match content.views.get(&chain) {
            Some(view) if view.mode >= mode => Some(view.subject.clone()),
            _ => {
                ask(content, Want::Lock(Resource::value(chain), mode));
                None
            }
        }
    }

    /// Change the subject of a chain that is locked for writing.
    ///
    /// # Errors
    /// As [`Mutation::apply`]; then nothing has changed.
    ///
    /// # Panics
    /// If the chain is not locked for writing.
    pub fn mutate(&self, chain: ChainId, mutation: Mutation) -> Result<()> {
        let content = &mut *self.content();
        let view = content.views.get_mut(&chain).expect("a view of a locked chain");
        assert_eq!(view.mode, LockMode::Write, "only a chain that is locked for writing changes");
        view.subject = mutation.apply(&view.subject)?;
        content.rows_written = Some(content.rows_written.unwrap_or(0) + 1);
        let bytes = mutation.bytes();
        view.mutations.push(mutation);
        if content.bytes + bytes > TRANSACTION_BYTES_MAX {
            return Err(writes_too_much());
        }
        content.bytes += bytes;
        Ok(())
    }

    /// The committed history of a chain and the transaction's own mutations, else ask for it.
    pub fn history(&self, chain: ChainId) -> Option<(SeenHistory, Recorded)> {
        let content = &mut *self.content();
        match content.histories.get(&chain) {
            Some(history) => {
                let own = content.views.get(&chain).map(|view| Recorded::of(&view.mutations));
                let own = own.or_else(|| content.recorded.get(&chain).cloned()).unwrap_or_default();
                Some((*history, own))
            }
            None => {
                ask(content, Want::History(chain));
                None
            }
        }
    }

    /// Let a job be done; its number is for [`Self::take_job_result`].
    pub fn submit(&self, job: Job) -> u32 {
        let content = &mut *self.content();
        let number = content.jobs_submitted;
        content.jobs_submitted += 1;
        content.jobs.push((number, job));
        number
    }

    /// The result of a job, once, when it is there.
    pub fn take_job_result(&self, number: u32) -> Option<JobResult> {
        self.content().job_results.remove(&number)
    }

    /// Begin to write to a chain around collections, alone if the write is not done in one step: what other parts of
    /// the program write meanwhile would be in the history where it did not happen.
    pub fn queue_write(&self, chain: ChainId, is_alone: bool) -> WriteTurn {
        let content = &mut *self.content();
        let turns = content.writing.entry(chain).or_default();
        turns.last += 1;
        turns.waiting.push((turns.last, is_alone));
        WriteTurn { chain, number: turns.last }
    }

    /// Whether a write may go on.
    pub fn is_turn(&self, turn: &WriteTurn) -> bool {
        let content = self.content();
        let waiting = &content.writing[&turn.chain].waiting;
        let before = waiting.partition_point(|(number, _)| *number < turn.number);
        match waiting[before] {
            (_, true) => before == 0,
            (_, false) => !waiting[..before].iter().any(|(_, is_alone)| *is_alone),
        }
    }

    /// A write has happened and is recorded.
    pub fn end_write(&self, turn: WriteTurn) {
        let content = &mut *self.content();
        let turns = content.writing.get_mut(&turn.chain).expect("a write that was queued");
        let place = turns.waiting.binary_search_by_key(&turn.number, |(number, _)| *number);
        turns.waiting.remove(place.expect("a write ends once"));
        // Who waits for this may have been polled before, and asks the world for nothing.
        content.out_of_fuel |= turns.waiting.iter().any(|(_, is_alone)| *is_alone);
        if turns.waiting.is_empty() {
            content.writing.remove(&turn.chain);
        }
    }

    // For the world.

    /// How many rows the writes of the program have touched; none if it has not written.
    pub fn rows_written(&self) -> Option<u64> {
        self.content().rows_written
    }

    /// The jobs that the program has submitted since the last call.
    pub fn take_jobs(&self) -> Vec<(u32, Job)> {
        std::mem::take(&mut self.content().jobs)
    }

    /// A job is done.
    pub fn finish_job(&self, number: u32, result: JobResult) {
        self.content().job_results.insert(number, result);
    }

    /// Give the program fuel for a tick, which has this number.
    pub fn refuel(&self, fuel: u64, tick: u64) {
        self.tick.store(tick, Relaxed);
        let content = &mut *self.content();
        content.fuel = fuel;
        content.out_of_fuel = false;
    }

    /// Whether the program stopped because its fuel was spent.
    pub fn is_out_of_fuel(&self) -> bool {
        self.content().out_of_fuel
    }

    /// What the program has asked for since the last call, without repeats.
    pub fn take_wants(&self) -> Vec<Want> {
        std::mem::take(&mut self.content().wants)
    }

    /// The newest commit that the program has read of a collection.
    pub fn seen_commit(&self) -> u64 {
        self.content().seen_commit
    }

    /// The collections of which the program has written rows that it had read before.
    pub fn upgraded(&self) -> BTreeSet<HostedCollection> {
        self.content().upgraded.clone()
    }

    /// Grant a lock: show the program the committed subject. A stronger lock on a chain that it sees already
    /// keeps what it sees.
    pub fn grant(&self, chain: ChainId, mode: LockMode, subject: State) {
        let content = &mut *self.content();
        content
            .views
            .entry(chain)
            .and_modify(|view| view.mode = view.mode.max(mode))
            .or_insert_with(|| View { mode, subject, mutations: Vec::new() });
    }

    /// Show the program the committed history of a chain.
    pub fn show_history(&self, chain: ChainId, history: SeenHistory) {
        self.content().histories.insert(chain, history);
    }

    /// What the program has changed.
    pub fn take_changes(&self) -> Vec<Change> {
        let content = &mut *self.content();
        let mut recorded = std::mem::take(&mut content.recorded);
        let values = std::mem::take(&mut content.views).into_iter();
        let mut changes: Vec<Change> = values
            .filter(|(_, view)| !view.mutations.is_empty())
            .map(|(chain, view)| Change {
                chain,
                content: ChangedContent::Value(view.subject, view.mutations),
            })
            .collect();
        let mut rows: BTreeMap<ChainId, Vec<(u16, RowsChange)>> = BTreeMap::new();
        for (HostedCollection { chain, slot }, view) in std::mem::take(&mut content.collections) {
            let changed = view.into_changes();
            if !changed.is_empty() {
                rows.entry(chain).or_default().push((slot, changed));
            }
        }
        // What is recorded happened, even if it left all rows as they were.
        for chain in recorded.keys() {
            rows.entry(*chain).or_default();
        }
        changes.extend(rows.into_iter().map(|(chain, rows)| Change {
            chain,
            content: ChangedContent::Rows(rows, recorded.remove(&chain).unwrap_or_default()),
        }));
        changes
    }

    /// What the program has locked, or wanted to lock, for writing.
    pub fn write_set(&self) -> Vec<Resource> {
        let content = self.content();
        let values = content.views.iter().filter(|(_, view)| !view.mutations.is_empty());
        let mut resources: Vec<Resource> = values.map(|(chain, _)| Resource::value(*chain)).collect();
        resources.extend(content.asked.iter().filter_map(|want| match want {
            Want::Lock(resource, LockMode::Write) => Some(resource.clone()),
            _ => None,
        }));
        resources.sort();
        resources.dedup();
        resources
    }

    /// The bytes that the contexts of the transaction hold.
    pub fn bytes(&self) -> u64 {
        self.content().bytes
    }
}

impl Account for Ledger {
    /// 400 if the contexts of the transaction would hold more than [`TRANSACTION_BYTES_MAX`].
    fn reserve(&self, bytes: u64) -> Result<()> {
        let content = &mut *self.content();
        if content.bytes + bytes > TRANSACTION_BYTES_MAX {
            return Err(Error::bad_request(format_args!(
                "the states of this transaction take more than {} MiB",
                TRANSACTION_BYTES_MAX >> 20
            )));
        }
        content.bytes += bytes;
        Ok(())
    }

    fn release(&self, bytes: u64) {
        let content = &mut *self.content();
        content.bytes = content.bytes.checked_sub(bytes).expect("no more is released than was reserved");
    }
}

/// Of rows that go into pages, more can be written than what is kept until the commit.
fn writes_too_much() -> Error {
    Error::too_large(format_args!(
        "this transaction writes more than {} MiB at once",
        TRANSACTION_BYTES_MAX >> 20
    ))
}

fn ask(content: &mut Content, want: Want) {
    if content.asked.insert(want.clone()) {
        content.wants.push(want);
    }
}
