//! What goes into a tick, what comes out of it, and what its stages hand to one another.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bevy_ecs::prelude::Entity;
use components::hosting::cluster::Catalog;
use components::hosting::storage::{Batch, Write};
use components::language::reference::Verb;
use components::rows::columns::Columns;
use components::rows::delta::Visibility;
use components::rows::schema::ColumnType;
use components::rows::staged::StagedPart;
use components::transaction::job::{Job, JobId, JobResult};
use components::transaction::ledger::{Change, Want};
use components::transaction::lock::{LockId, Resource};
use components::transaction::{CommitRight, RequestId};
use components::value::ids::{ChainId, HostedCollection, PageId};
use components::{Path, Reply, Request, TxnId};

use crate::ids::Ids;
use crate::retired::RetiredPages;
use crate::room::Room;

/// One input of a tick.
#[derive(Clone, Debug)]
pub enum Input {
    /// A request to run as one transaction.
    Request {
        /// Names it until it is answered; never used twice.
        id: RequestId,
        /// What to run.
        request: Request,
    },
    /// Nobody waits for the answer to this request any more.
    Cancel(RequestId),
    /// The answer to this request, which [streams](components::State::is_streamed), is not read any more.
    Unpin(RequestId),
    /// Every batch up to this sequence is durable.
    Durable(u64),
    /// For how much there is room in storage, what is on its way there not counted.
    Room(Room),
    /// A job is done.
    Job {
        /// Its name.
        id: JobId,
        /// What came of it.
        result: JobResult,
    },
    /// The base of a page that was asked for, or why it cannot be read.
    Page {
        /// Its name.
        page: PageId,
        /// Its content.
        content: Result<Columns, String>,
    },
}

/// Something to read from storage.
#[derive(Clone, Debug)]
pub enum Load {
    /// The base of a page; [`Input::Page`] brings it.
    Page {
        /// Its name.
        page: PageId,
        /// The types of its columns.
        types: Arc<[ColumnType]>,
    },
}

/// What a tick is given.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// The clock on the wall, in nanoseconds since the Unix epoch: what ids are made of. It may be set back or forward.
    pub now_ns: u64,
    /// A clock that only goes forward, in nanoseconds since some moment before the process began: what time limits follow.
    pub monotonic_ns: u64,
    /// In order of arrival.
    pub events: Vec<Input>,
}

/// What a tick gives back.
#[derive(Debug, Default)]
pub struct Outputs {
    /// Answers, in the order in which they may leave.
    pub replies: Vec<(RequestId, Reply)>,
    /// How many rows the writes of these have touched, in the order of their answers; those that did not write are left
    /// out.
    pub rows_written: Vec<(RequestId, u64)>,
    /// Transactions that got their place in the order, and so their outcome, in this tick; the answers may still be held.
    pub ended: Vec<Ended>,
    /// What must become durable.
    pub batch: Option<Batch>,
    /// What to read from storage.
    pub loads: Vec<Load>,
    /// What to do beside the world; [`Input::Job`] brings what came of it.
    pub jobs: Vec<(JobId, Job)>,
    /// Jobs of which nobody wants the result any more. Some may have ended.
    pub ended_jobs: Vec<JobId>,
    /// Answers that cannot be read to their end any more: they have kept too much for too long.
    pub revoked: Vec<RequestId>,
    /// Whether there is more to do without further input.
    pub is_busy: bool,
    /// When to tick at the latest, in nanoseconds of the monotonic clock.
    pub next_deadline_ns: Option<u64>,
    /// Why the host cannot go on, if it cannot.
    pub poisoned: Option<String>,
}

/// A transaction that has its place in the order.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ended {
    /// What it answers.
    pub request: RequestId,
    /// Under which id it ended.
    pub id: TxnId,
    /// Whether it has committed a change. Those that did are in the order of their commits.
    pub is_commit: bool,
}

/// The inputs that the intake has yet to look at, and the time.
#[derive(Debug, Default, bevy_ecs::prelude::Resource)]
pub struct Inbox(pub Inputs);

/// The outputs so far.
#[derive(Debug, Default, bevy_ecs::prelude::Resource)]
pub struct Outbox {
    /// See [`Outputs::replies`].
    pub replies: Vec<(RequestId, Reply)>,
    /// See [`Outputs::rows_written`].
    pub rows_written: Vec<(RequestId, u64)>,
    /// See [`Outputs::ended`].
    pub ended: Vec<Ended>,
    /// Changes for the batch of this tick.
    pub writes: Vec<Write>,
    /// See [`Outputs::loads`].
    pub loads: Vec<Load>,
    /// See [`Outputs::jobs`].
    pub jobs: Vec<(JobId, Job)>,
    /// See [`Outputs::ended_jobs`].
    pub ended_jobs: Vec<JobId>,
    /// See [`Outputs::revoked`].
    pub revoked: Vec<RequestId>,
}

/// What this host serves.
#[derive(Debug, bevy_ecs::prelude::Resource)]
pub struct Hosting(pub Arc<Catalog>);

/// How many batches may be on their way to the disk before pages wait for their turn.
const BATCHES_IN_FLIGHT_MAX: u64 = 8;

/// How many steps a stage takes in any case, so that what the stages before it have begun goes on.
const STEPS_MIN: usize = 16;

/// A transaction that has its place in the order, on its way to being applied.
#[derive(Debug)]
pub struct Commit {
    /// What a hypothetical transaction cannot give.
    pub right: CommitRight,
    /// The transaction.
    pub id: TxnId,
    /// Its number in the order of commits.
    pub number: u64,
    /// For each chain that it changed: the changes, and the subject after them.
    pub changes: Vec<Change>,
}

/// The registers of a world: which entity is which, and what has to be looked at.
///
/// Everything here is ordered: what is done in this order is the same on every run.
#[derive(Debug, Default, bevy_ecs::prelude::Resource)]
pub struct Registry {
    /// Open transactions whose order is not decided.
    pub active: BTreeMap<TxnId, Entity>,
    /// Open transactions by the request that they answer.
    pub requests: BTreeMap<RequestId, Entity>,
    /// When each of them is answered 408, by the monotonic clock.
    pub deadlines: BTreeSet<(u64, RequestId)>,
    /// Chains by number.
    pub chains: BTreeMap<ChainId, Entity>,
    /// Active transactions whose programs can be polled.
    pub runnable: BTreeSet<TxnId>,
    /// Active transactions whose programs have spent their fuel for this tick.
    pub out_of_fuel: BTreeSet<TxnId>,
    /// What programs have asked for.
    pub wants: Vec<(TxnId, Want)>,
    /// Locks to take before a transaction begins.
    pub expected: Vec<(TxnId, Resource)>,
    /// Locks whose way was freed: they are granted, oldest first, or wait for somebody else.
    pub unblocked: BTreeSet<(TxnId, ChainId, LockId)>,
    /// Transactions that were refused a lock.
    pub refused: BTreeSet<TxnId>,
    /// Transactions whose outcome is known.
    pub finished: BTreeSet<TxnId>,
    /// Commits on their way to being applied, in order.
    pub commits: Vec<Commit>,
    /// Answers that wait for a batch to be durable.
    pub held: BTreeMap<u64, Vec<Entity>>,
    /// The snapshots that hypothetical transactions read, with how many read each.
    pub snapshots: BTreeMap<u64, usize>,
    /// What each active transaction holds and waits for.
    pub held_locks: BTreeMap<TxnId, HeldLocks>,
    /// Who may look at what each chain was.
    pub chain_readers: BTreeMap<ChainId, ChainReaders>,
    /// Chains of which more is kept for older transactions than those that have not come yet are worth.
    pub pressed_chains: BTreeSet<ChainId>,
    /// How much the stages may still do in this tick.
    pub steps_left: usize,
    /// The last transaction that was polled in a round in which not all could be.
    pub last_polled: TxnId,
    /// The ids of transactions.
    pub ids: Ids,
    /// How many transactions have committed.
    pub commit_count: u64,
    /// The sequence of the batch that is being filled.
    pub batch: u64,
    /// The sequence up to which everything is durable.
    pub durable: u64,
    /// Pages by the stored name of their base.
    pub pages: BTreeMap<PageId, Entity>,
    /// The last name that was given to a base.
    pub last_page: PageId,
    /// The pages whose content is in memory.
    pub resident_pages: BTreeSet<PageId>,
    /// The size of that content, in bytes.
    pub resident_page_bytes: u64,
    /// Who waits for a job, and its number there.
    pub jobs: BTreeMap<JobId, (TxnId, u32)>,
    /// The same the other way round.
    pub jobs_of: BTreeSet<(TxnId, JobId)>,
    /// What was stored for transactions that have not committed: nobody else looks at it.
    pub staged_pages: BTreeMap<TxnId, BTreeSet<PageId>>,
    /// Parts that are stored with a batch, with who waits for that, and the number of the job there.
    pub staged_parts: BTreeMap<u64, Vec<(TxnId, u32, Arc<StagedPart>)>>,
    /// The number of the last job; those of other worlds have other ones.
    pub job_count: u64,
    /// Transactions that wait for the content of a page.
    pub page_readers: BTreeMap<PageId, BTreeSet<TxnId>>,
    /// Bases that no newest version has any more, and the answers that are still to be read from them.
    pub retired: RetiredPages,
    /// The batch of each commit that is not known to be durable.
    pub commit_batches: BTreeMap<u64, u64>,
    /// Pages that were asked for and have not come yet.
    pub loading_pages: BTreeSet<PageId>,
    /// Pages that could not be read, and until when nobody but a reader asks for them again, by the monotonic clock.
    pub damaged_pages: BTreeMap<PageId, u64>,
    /// Names of pages up to this one are used up for whoever loads what is stored.
    pub reserved_page: PageId,
    /// Chains around collections that have something to store.
    pub dirty_chains: BTreeSet<ChainId>,
    /// Whether something can go on without further input that was begun at the end of a tick: a checkpoint, deletions.
    pub is_rest_due: bool,
    /// The page that was looked at last to find content to drop.
    pub evict_hand: PageId,
    /// What the programs of active transactions hold.
    pub holders: Holders,
    /// How many ticks have run.
    pub ticks: u64,
}

/// The locks of a transaction.
#[derive(Debug, Default)]
pub struct HeldLocks {
    /// Those that were granted, and those that were not.
    pub locks: Vec<(ChainId, LockId)>,
    /// How many of them were not granted.
    pub waiting: usize,
    /// The chains of which it has asked for something.
    chains: Vec<ChainId>,
}

/// The transactions that have asked for something of a chain, and so may look at what it was.
#[derive(Debug, Default)]
pub struct ChainReaders {
    /// Each with the last commit that it sees.
    ids: BTreeMap<TxnId, u64>,
    snapshots: BTreeMap<u64, usize>,
}

impl ChainReaders {
    fn insert(&mut self, id: TxnId, snapshot: u64) -> bool {
        let is_new = self.ids.insert(id, snapshot).is_none();
        if is_new && snapshot < u64::MAX {
            *self.snapshots.entry(snapshot).or_default() += 1;
        }
        is_new
    }

    fn remove(&mut self, id: TxnId) {
        let snapshot = self.ids.remove(&id).expect("a reader");
        if let Some(count) = self.snapshots.get_mut(&snapshot) {
            *count -= 1;
            if *count == 0 {
                self.snapshots.remove(&snapshot);
            }
        }
    }

    /// What all of them see.
    fn oldest(&self) -> Visibility {
        let before = self.ids.keys().next().copied().unwrap_or(TxnId::MAX);
        Visibility { before, commit: self.snapshots.keys().next().copied().unwrap_or(u64::MAX) }
    }

    /// Those that keep what all others do not need: the oldest one, and one that reads the oldest snapshot.
    fn oldest_ids(&self) -> impl Iterator<Item = TxnId> {
        let oldest = self.ids.keys().next().copied();
        let snapshot = self.snapshots.keys().next();
        let of_snapshot = self.ids.iter().find(|(_, other)| Some(*other) == snapshot).map(|(id, _)| *id);
        oldest.into_iter().chain(of_snapshot)
    }
}

impl Registry {
    /// Whether the stages of a tick have something left to do.
    pub fn has_work(&self) -> bool {
        !(self.runnable.is_empty()
            && self.wants.is_empty()
            && self.expected.is_empty()
            && self.unblocked.is_empty()
            && self.refused.is_empty()
            && self.finished.is_empty())
    }

    /// How many of so many things a stage may do now. If the steps of the tick are spent it is few, and the rest is left to
    /// the next tick.
    pub fn take_steps(&mut self, wanted: usize) -> usize {
        let steps = wanted.min(self.steps_left.max(STEPS_MIN));
        self.steps_left = self.steps_left.saturating_sub(steps);
        steps
    }

    /// Whether answers wait that may leave.
    pub fn has_answers(&self) -> bool {
        self.held.first_key_value().is_some_and(|(batch, _)| *batch <= self.durable)
    }

    /// A snapshot of everything that has committed so far, for one more reader.
    pub fn take_snapshot(&mut self) -> u64 {
        *self.snapshots.entry(self.commit_count).or_default() += 1;
        self.commit_count
    }

    /// A reader of a snapshot is done with it.
    pub fn release_snapshot(&mut self, snapshot: u64) {
        let readers = self.snapshots.get_mut(&snapshot).expect("a snapshot in use");
        *readers -= 1;
        if *readers == 0 {
            self.snapshots.remove(&snapshot);
        }
    }

    /// The snapshot before which no transaction reads.
    pub fn oldest_snapshot(&self) -> u64 {
        self.snapshots.keys().next().copied().unwrap_or(u64::MAX)
    }

    /// The batch that makes a commit durable, if it is not known to be durable.
    pub fn batch_of(&self, commit: u64) -> Option<u64> {
        self.commit_batches.get(&commit).copied()
    }

    /// Whether the storage keeps up, so that it may be given pages that could wait.
    pub fn can_store_pages(&self) -> bool {
        self.batch - self.durable <= BATCHES_IN_FLIGHT_MAX
    }

    /// A name for a new base.
    pub fn next_page(&mut self) -> PageId {
        self.last_page = PageId(self.last_page.0 + 1);
        self.last_page
    }

    /// Note that a transaction, which sees commits up to a snapshot, asks for something of a chain.
    pub fn note_reader(&mut self, id: TxnId, chain: ChainId, snapshot: Option<u64>) {
        let readers = self.chain_readers.entry(chain).or_default();
        if readers.insert(id, snapshot.unwrap_or(u64::MAX)) {
            self.held_locks.entry(id).or_default().chains.push(chain);
        }
    }

    /// A transaction looks at nothing any more.
    pub fn forget_reader(&mut self, id: TxnId, held: &HeldLocks) {
        for chain in &held.chains {
            self.chain_readers.get_mut(chain).expect("the readers of a chain").remove(id);
        }
    }

    /// What every transaction sees that has asked for something of a chain: others have none of its trees.
    pub fn oldest_reader(&self, chain: ChainId) -> Visibility {
        self.chain_readers.get(&chain).map_or(Visibility::NEWEST, ChainReaders::oldest)
    }

    /// What every transaction that may read a chain sees, so that older versions are of no use. If so much is kept for older
    /// ones that it is too much, those that have not come yet do not count: they begin again, should they come.
    pub fn oldest_visibility(&self, chain: ChainId) -> Visibility {
        if self.pressed_chains.contains(&chain) {
            return self.oldest_reader(chain);
        }
        Visibility { before: self.oldest_active(), commit: self.oldest_snapshot() }
    }

    /// End what keeps old versions of a chain: it begins again, or is refused.
    pub fn end_oldest_reader(&mut self, chain: ChainId) {
        let oldest = self.chain_readers.get(&chain).into_iter().flat_map(ChainReaders::oldest_ids);
        self.refused.extend(oldest.filter(|id| self.active.contains_key(id)));
    }

    /// The id before which no transaction reads.
    pub fn oldest_active(&self) -> TxnId {
        // With nobody active, whoever comes is newer than everything.
        self.active.keys().next().copied().unwrap_or(TxnId::MAX)
    }
}

/// Which transactions hold how much in their contexts, as of when each was last polled, in bytes.
#[derive(Debug, Default)]
pub struct Holders {
    by_id: BTreeMap<TxnId, u64>,
    bytes: u64,
}

impl Holders {
    /// What all of them hold.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Note what a transaction holds now.
    pub fn note(&mut self, id: TxnId, bytes: u64) {
        let before = match bytes {
            0 => self.by_id.remove(&id),
            _ => self.by_id.insert(id, bytes),
        };
        self.bytes = self.bytes + bytes - before.unwrap_or(0);
    }

    /// The youngest that holds anything; it is taken to hold nothing any more.
    pub fn pop_youngest(&mut self) -> Option<TxnId> {
        let (id, bytes) = self.by_id.pop_last()?;
        self.bytes -= bytes;
        Some(id)
    }
}

/// What a request is expected to write: what the last one of its kind wrote. It is locked before the request begins,
/// or when a row is read, so that transactions on one hot value queue up instead of refusing one another.
///
/// Callers name the kinds, so only the last are remembered: those that were not seen while half as many others were are
/// forgotten.
#[derive(Debug, Default, bevy_ecs::prelude::Resource)]
pub struct Expectations {
    recent: BTreeMap<(Path, Verb), Expectation>,
    before: BTreeMap<(Path, Verb), Expectation>,
}

impl Expectations {
    /// What a request of a kind is expected to write.
    pub fn get(&self, kind: &(Path, Verb)) -> Option<&Expectation> {
        self.recent.get(kind).or_else(|| self.before.get(kind))
    }

    /// Note what a request of a kind has written.
    pub fn learn(
        &mut self,
        kind: (Path, Verb),
        values: Vec<ChainId>,
        for_update: BTreeSet<HostedCollection>,
    ) {
        if let Some(known) = self.recent.get_mut(&kind) {
            known.note(values, for_update);
            if known.is_nothing() {
                self.recent.remove(&kind);
            }
            return;
        }
        let mut known = self.before.remove(&kind).unwrap_or_default();
        known.note(values, for_update);
        if known.is_nothing() {
            return;
        }
        if self.recent.len() >= EXPECTATIONS_MAX / 2 {
            self.before = std::mem::take(&mut self.recent);
        }
        self.recent.insert(kind, known);
    }
}

/// What requests of a kind are expected to write.
#[derive(Clone, Debug, Default)]
pub struct Expectation {
    /// Chains around values.
    pub values: Vec<ChainId>,
    /// Collections of which they write rows that they have read before.
    pub for_update: BTreeSet<HostedCollection>,
}

impl Expectation {
    fn note(&mut self, values: Vec<ChainId>, for_update: BTreeSet<HostedCollection>) {
        self.values = values;
        // Once learned, it stays: with the rows locked for writing at once, nothing is upgraded any more.
        self.for_update.extend(for_update);
    }

    fn is_nothing(&self) -> bool {
        self.values.is_empty() && self.for_update.is_empty()
    }
}

/// How many kinds of request are remembered.
pub const EXPECTATIONS_MAX: usize = 16_384;

/// What has happened, for operators.
#[derive(Clone, Copy, Debug, Default, bevy_ecs::prelude::Resource)]
pub struct Statistics {
    /// Transactions that were begun, retries not counted.
    pub begun: u64,
    /// Transactions that committed a change.
    pub committed: u64,
    /// Transactions that ended without a change.
    pub read_only: u64,
    /// Transactions that failed.
    pub failed: u64,
    /// Attempts that were refused a lock and begun again.
    pub retried: u64,
    /// Transactions that ended in a conflict.
    pub conflicts: u64,
    /// Transactions that ran out of time.
    pub timeouts: u64,
    /// Locks, and nodes of the trees that hold them, that were looked at.
    pub locks_looked_at: u64,
    /// Rounds of the stages within ticks.
    pub rounds: u64,
    /// Polls of programs.
    pub polls: u64,
    /// Polls of programs that ran on more than one thread.
    pub parallel_polls: u64,
    /// Pages whose content came from storage.
    pub page_loads: u64,
    /// Pages whose content was dropped from memory.
    pub page_evictions: u64,
    /// Pages that were looked at to find some whose content can be dropped.
    pub eviction_looks: u64,
    /// Pages that were folded.
    pub page_folds: u64,
    /// Pages that became several when they were folded.
    pub page_splits: u64,
    /// Pages that went together with one beside them, because one of both was small.
    pub page_joins: u64,
    /// Pages that nobody could read any more and that were deleted.
    pub page_deletions: u64,
    /// Pages that were stored before the commit that was to put them into their place.
    pub page_stagings: u64,
    /// Those of them that were deleted because it did not come.
    pub page_unstagings: u64,
    /// Checkpoints of the pages of a chain that are complete.
    pub checkpoints: u64,
    /// Pages and blocks that could not be read.
    pub failed_reads: u64,
    /// Jobs that failed.
    pub failed_jobs: u64,
    /// Answers that were broken off because they kept too much.
    pub revoked_pins: u64,
}

impl Statistics {
    /// A transaction has ended.
    pub fn count_end(&mut self, is_success: bool, is_commit: bool) {
        match (is_success, is_commit) {
            (true, true) => self.committed += 1,
            (true, false) => self.read_only += 1,
            (false, _) => self.failed += 1,
        }
    }
}

/// The threads that poll programs when there are many. None: the thread of the tick alone.
#[derive(Default, bevy_ecs::prelude::Resource)]
pub struct Pool(pub Option<rayon::ThreadPool>);
