//! The host: a world, and the one way in which it changes.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bevy_ecs::prelude::*;
use bevy_ecs::schedule::{LogLevel, ScheduleBuildSettings, SingleThreadedExecutor};
use components::hosting::cluster::Catalog;
use components::hosting::storage::Write;
use components::hosting::versions::{
    BlockHeader, EffectLog, History, HostedChain, HostedCollections, HostedRows, PageHeader, Stored, Version,
    Versions,
};
use components::language::chain::ChainKind;
use components::language::tbon;
use components::transaction::lock::LockTable;
use components::transaction::{RequestId, Transaction};
use components::value::ids::{PageId, TreeId};
use components::{Error, TxnId};
use systems::execute::panic_message;
use systems::ids::Ids;
use systems::limits::Limits;
use systems::room::Room;
use systems::tick::{Expectations, Hosting, Inbox, Inputs, Outbox, Outputs, Pool, Registry, Statistics};
use systems::{apply, arbitrate, checkpoint, commit, evict, execute, intake, persist, respond};
use xxhash_rust::xxh3::Xxh3;

use crate::inspect::{InspectQuery, Inspection};
use crate::load::LoadedChain;

/// The stack of a thread that polls programs, in bytes: programs nest as deep as the language allows. It is
/// address space; a thread takes as much memory as it uses.
pub const PROGRAM_STACK_BYTES: usize = 512 << 20;

/// What a host is made of.
#[derive(Debug)]
pub struct HostConfig {
    /// What it serves.
    pub catalog: Catalog,
    /// The chains that it serves, as they were stored.
    pub chains: Vec<LoadedChain>,
    /// The last name that was given to a page.
    pub last_page: PageId,
    /// What is left to do from before.
    pub inherited: Inherited,
    /// Its limits.
    pub limits: Limits,
    /// How many threads poll programs.
    pub threads: usize,
    /// The clock on the wall when it was made, in nanoseconds since the Unix epoch.
    pub now_ns: u64,
    /// The monotonic clock when it was made, in nanoseconds.
    pub monotonic_ns: u64,
}

/// What a host takes over from the one before it on the same storage.
#[derive(Debug, Default)]
pub struct Inherited {
    /// The pages in storage that are in no tree: they are to be deleted.
    pub garbage: Vec<PageId>,
    /// The answers that are still to be read from pages, these or others: an [`Input::Unpin`](systems::tick::Input::Unpin)
    /// tells when that is done.
    pub answers: Vec<RequestId>,
    /// What is to be stored with the first batch.
    pub writes: Vec<Write>,
}

/// A TinyChain host without its edges: a pure function from inputs to outputs and the next state.
///
/// `tick` must run on a thread with a stack of [`PROGRAM_STACK_BYTES`].
pub struct Host {
    world: World,
    begin: Schedule,
    round: Schedule,
    end: Schedule,
    poison: Option<String>,
}

/// A schedule whose systems run one after the other on the calling thread: parallelism is inside the systems that
/// have enough to do (`BENCHMARKS.md`, *executors*). Systems whose order is not given are an error.
fn schedule() -> Schedule {
    let mut schedule = Schedule::default();
    schedule.set_executor(SingleThreadedExecutor::new());
    schedule.set_build_settings(ScheduleBuildSettings {
        ambiguity_detection: LogLevel::Error,
        ..Default::default()
    });
    schedule
}

impl Host {
    /// A host that has not ticked.
    ///
    /// # Errors
    /// Why its schedules or threads cannot be made.
    pub fn new(config: HostConfig) -> Result<Self, String> {
        let HostConfig { catalog, chains, last_page, inherited, limits, threads, now_ns, monotonic_ns } =
            config;
        let mut world = World::new();
        let pool = if threads > 1 {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .stack_size(PROGRAM_STACK_BYTES)
                .thread_name(|i| format!("program-{i}"))
                .build();
            Some(pool.map_err(|cause| format!("cannot start {threads} threads: {cause}"))?)
        } else {
            None
        };
        // What was read before is forgotten, so nothing may be written before it.
        let mut floor = TxnId::new(now_ns, 0);
        // A job of a world before this one may still end, and must not be taken for one of this.
        let mut registry = Registry {
            batch: 1,
            last_page,
            reserved_page: last_page,
            job_count: monotonic_ns,
            ..Default::default()
        };
        registry.retired.inherit(inherited.garbage, inherited.answers);
        for chain in chains {
            floor = floor.max(chain.last);
            registry.commit_count = registry.commit_count.max(chain.collections.last_commit);
            let id = chain.id;
            if !chain.collections.effects.is_empty() {
                registry.dirty_chains.insert(id);
            }
            let entity = spawn_chain(&mut world, chain, &mut registry.pages);
            registry.chains.insert(id, entity);
        }
        registry.ids = Ids::after(floor);
        world.insert_resource(registry);
        world.insert_resource(Hosting(Arc::new(catalog)));
        world.insert_resource(limits);
        world.insert_resource(Pool(pool));
        world.init_resource::<Inbox>();
        world.insert_resource(Outbox { writes: inherited.writes, ..Default::default() });
        world.init_resource::<Expectations>();
        world.init_resource::<Statistics>();
        world.init_resource::<Room>();
        let (mut begin, mut round, mut end) = (schedule(), schedule(), schedule());
        begin.add_systems(intake::intake);
        round.add_systems((arbitrate::arbitrate, execute::execute, commit::commit, apply::apply).chain());
        end.add_systems((checkpoint::checkpoint, respond::respond, evict::evict_pages, evict::shed).chain());
        for schedule in [&mut begin, &mut round, &mut end] {
            schedule.initialize(&mut world).map_err(|cause| format!("a schedule is ambiguous: {cause}"))?;
        }
        Ok(Self { world, begin, round, end, poison: None })
    }

    /// Take the inputs, do everything that can be done, and give the outputs.
    ///
    /// Same inputs, same outputs and same [`Self::state_hash`], on any number of threads. If a system panics the host
    /// is poisoned: every open request is answered 500, as is every later one, and [`Outputs::poisoned`] says why.
    pub fn tick(&mut self, inputs: Inputs) -> Outputs {
        if self.poison.is_some() {
            return self.refuse(inputs);
        }
        let requests: Vec<RequestId> = inputs.events.iter().filter_map(new_request).collect();
        match catch_unwind(AssertUnwindSafe(|| self.run(inputs))) {
            Ok(outputs) => outputs,
            Err(panic) => {
                let message = panic_message(&*panic);
                tracing::error!("a system panicked, so this world cannot be trusted any more: {message}");
                self.poison = Some(message);
                self.abandon(requests)
            }
        }
    }

    fn run(&mut self, inputs: Inputs) -> Outputs {
        let world = &mut self.world;
        world.resource_mut::<Inbox>().0 = inputs;
        self.begin.run(world);
        let rounds_max = world.resource::<Limits>().rounds_max;
        let mut rounds = 0;
        let has_work = |world: &World| {
            let registry = world.resource::<Registry>();
            registry.has_work() && registry.steps_left > 0
        };
        while rounds < rounds_max && has_work(world) {
            world.resource_mut::<Registry>().take_steps(1);
            self.round.run(world);
            rounds += 1;
        }
        world.resource_mut::<Statistics>().rounds += u64::from(rounds);
        self.end.run(world);
        world.clear_trackers();
        let batch = persist::take_batch(world);
        let outbox = &mut *world.resource_mut::<Outbox>();
        let replies = std::mem::take(&mut outbox.replies);
        let rows_written = std::mem::take(&mut outbox.rows_written);
        let loads = std::mem::take(&mut outbox.loads);
        let jobs = std::mem::take(&mut outbox.jobs);
        let ended = std::mem::take(&mut outbox.ended);
        let ended_jobs = std::mem::take(&mut outbox.ended_jobs);
        let revoked = std::mem::take(&mut outbox.revoked);
        let registry = &mut *world.resource_mut::<Registry>();
        let is_rest_due = std::mem::take(&mut registry.is_rest_due);
        Outputs {
            replies,
            rows_written,
            ended,
            batch,
            loads,
            jobs,
            ended_jobs,
            revoked,
            is_busy: registry.has_work()
                || registry.has_answers()
                || !registry.out_of_fuel.is_empty()
                || is_rest_due,
            next_deadline_ns: registry.deadlines.first().map(|(deadline_ns, _)| *deadline_ns),
            poisoned: None,
        }
    }

    /// Answer everything that is open after a panic; nothing of the tick is persisted.
    fn abandon(&mut self, requests: Vec<RequestId>) -> Outputs {
        let mut open: Vec<RequestId> = requests;
        let mut query = self.world.query::<&Transaction>();
        open.extend(query.iter(&self.world).map(|transaction| transaction.request_id));
        let answered: Vec<RequestId> = self.world.get_resource::<Outbox>().map_or_else(Vec::new, |outbox| {
            outbox.replies.iter().map(|(request_id, _)| *request_id).collect()
        });
        open.extend(answered);
        open.sort();
        open.dedup();
        self.failures(open)
    }

    fn refuse(&mut self, inputs: Inputs) -> Outputs {
        self.failures(inputs.events.iter().filter_map(new_request).collect())
    }

    fn failures(&self, requests: Vec<RequestId>) -> Outputs {
        let why = self.poison.clone().expect("a poisoned host");
        let error = Error::internal(format_args!("this is a defect of the host: {why}"));
        Outputs {
            replies: requests.into_iter().map(|request_id| (request_id, Err(error.clone()))).collect(),
            poisoned: Some(why),
            ..Default::default()
        }
    }

    /// A hash of everything that later outputs depend on, but for the programs themselves.
    pub fn state_hash(&mut self) -> u64 {
        let mut hash = Xxh3::new();
        let mut texts = self.texts_of_chains();
        texts.extend(self.texts_of_transactions());
        // In whatever order the entities lie.
        texts.sort();
        for text in texts {
            hash.update(&text);
        }
        hash_registers(self.world.resource::<Registry>(), &mut hash);
        hash.update(format!("{:?}", self.world.resource::<Expectations>()).as_bytes());
        hash.digest()
    }

    /// What [`Self::state_hash`] has of each chain.
    fn texts_of_chains(&mut self) -> Vec<Vec<u8>> {
        let mut chains = self.world.query::<(
            &HostedChain,
            Option<&Versions>,
            Option<&HostedCollections>,
            &LockTable,
            Option<&Stored>,
            Option<&EffectLog>,
            Option<&History>,
        )>();
        let mut texts: Vec<Vec<u8>> = Vec::new();
        for (chain, versions, collections, locks, stored, log, history) in chains.iter(&self.world) {
            let mut text = tbon::encode(&chain.id.0);
            for version in versions.iter().flat_map(|versions| versions.iter()) {
                text.extend(version.id.to_bytes());
                text.extend(version.commit.to_be_bytes());
                text.extend(version.batch.to_be_bytes());
                text.extend(tbon::encode(&version.subject));
            }
            for tree in collections.iter().flat_map(|rows| &rows.slots).flat_map(|rows| rows.trees.iter()) {
                for (low, page) in tree.iter() {
                    text.extend_from_slice(low);
                    let base = page.base.as_ref();
                    let base =
                        base.map(|cell| (cell.id(), cell.content().is_some(), cell.uses(), cell.last_used()));
                    text.extend(
                        format!(
                            "{base:?} {} {:?} {:?} {}",
                            page.rows, page.delta, page.horizon, page.through
                        )
                        .bytes(),
                    );
                }
            }
            text.extend(format!("{locks:?} {log:?}").bytes());
            text.extend(tbon::encode(&stored.map(|stored| stored.deltas.len() as u64)));
            text.extend(history.iter().flat_map(|history| history.open.hash()));
            texts.push(text);
        }
        texts
    }

    /// What [`Self::state_hash`] has of each transaction.
    fn texts_of_transactions(&mut self) -> Vec<Vec<u8>> {
        let mut transactions = self.world.query::<&Transaction>();
        let text = |transaction: &Transaction| {
            let mut text = transaction.id.to_bytes().to_vec();
            text.extend(transaction.request_id.0.to_be_bytes());
            let state = (transaction.phase, transaction.attempts, transaction.durable_after);
            text.extend(format!("{state:?}").bytes());
            text
        };
        transactions.iter(&self.world).map(text).collect()
    }

    /// What has happened so far.
    pub fn statistics(&self) -> Statistics {
        *self.world.resource::<Statistics>()
    }

    /// How many requests are open.
    pub fn open_requests(&self) -> usize {
        self.world.resource::<Registry>().requests.len()
    }

    /// Do a part of an inspection; what it shows, if that was the last one.
    pub fn advance(&self, inspection: &mut Inspection) -> Option<serde_json::Value> {
        inspection.advance(&self.world)
    }

    /// All of an inspection: a frozen copy of (a part of) the world, as JSON.
    pub fn inspect(&self, query: &InspectQuery) -> serde_json::Value {
        let mut inspection = Inspection::new(query.clone());
        loop {
            if let Some(shown) = self.advance(&mut inspection) {
                return shown;
            }
        }
    }
}

fn new_request(event: &systems::tick::Input) -> Option<RequestId> {
    match event {
        systems::tick::Input::Request { id, .. } => Some(*id),
        _ => None,
    }
}

fn spawn_chain(world: &mut World, chain: LoadedChain, pages: &mut BTreeMap<PageId, Entity>) -> Entity {
    let LoadedChain { id, spec, last, subject, collections, deltas, delta_bytes, blocks, open } = chain;
    let kind = spec.kind;
    let entity = world.spawn((HostedChain { id, spec }, LockTable::new(last))).id();
    if collections.slots.is_empty() {
        // Ids begin after zero, so that every transaction finds a version before it.
        let version = Version { id: last, commit: 0, batch: 0, subject };
        world.entity_mut(entity).insert((Versions::new(version), Stored { deltas, delta_bytes }));
    } else {
        for (slot, (schema, trees)) in collections.slots.iter().enumerate() {
            for (tree, (content, layout)) in trees.iter().zip(schema.layouts()).enumerate() {
                let tree = TreeId { chain: id, slot: slot as u16, tree: tree as u16 };
                for cell in content.iter().filter_map(|(_, page)| page.base.clone()) {
                    let types = layout.types.clone();
                    let page = cell.id();
                    let header = PageHeader { cell, tree, types, stored: 0 };
                    pages.insert(page, world.spawn(header).id());
                }
            }
        }
        let bytes = collections.effects.values().sum();
        let log =
            EffectLog { entries: collections.effects, bytes, dirty: collections.dirty, ..Default::default() };
        let slots = collections.slots.into_iter();
        let slots = slots.map(|(schema, trees)| HostedRows { schema, trees: Arc::new(trees) }).collect();
        world.entity_mut(entity).insert((HostedCollections::new(slots, last), log));
    }
    if kind == ChainKind::Block {
        let open = open.expect("a block chain has an open block");
        let entities = blocks
            .into_iter()
            .enumerate()
            .map(|(ordinal, block)| {
                let header = BlockHeader {
                    chain: id,
                    ordinal: ordinal as u32,
                    previous: block.previous,
                    transactions: block.transactions,
                    bytes: block.bytes,
                    batch: 0,
                    newest: TxnId::ZERO,
                };
                world.spawn(header).id()
            })
            .collect();
        world.entity_mut(entity).insert(History { blocks: entities, open });
    }
    entity
}

/// What [`Host::state_hash`] has of the registers.
fn hash_registers(registry: &Registry, hash: &mut Xxh3) {
    hash.update(format!("{:?} {:?}", registry.deadlines, registry.ids).as_bytes());
    let Registry { held, snapshots, commit_batches, retired, staged_pages, .. } = registry;
    let kept = (held, snapshots, commit_batches, retired, staged_pages);
    hash.update(format!("{kept:?}").as_bytes());
    let Registry { last_page, reserved_page, durable, job_count, jobs, staged_parts, .. } = registry;
    let parts: Vec<_> = staged_parts
        .iter()
        .flat_map(|(batch, parts)| parts.iter().map(move |(id, number, _)| (batch, id, number)))
        .collect();
    hash.update(format!("{:?}", (last_page, reserved_page, durable, job_count, jobs, parts)).as_bytes());
    let Registry { loading_pages, damaged_pages, resident_pages, resident_page_bytes, dirty_chains, .. } =
        registry;
    let pages = (loading_pages, damaged_pages, resident_pages, resident_page_bytes, dirty_chains);
    hash.update(format!("{pages:?}").as_bytes());
    hash.update(&registry.commit_count.to_be_bytes());
    hash.update(&registry.batch.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use components::hosting::cluster::ClusterConfig;
    use components::hosting::storage::{Keyspace, Read, Write};
    use components::language::reference::Verb;
    use components::transaction::Program;
    use components::value::document::Document;
    use components::{ErrorKind, Number, Path, Reply, Request, State, Value};
    use std::collections::BTreeMap;
    use systems::tick::Input;

    /// What a disk would keep.
    #[derive(Default)]
    struct Memory(BTreeMap<(Keyspace, Vec<u8>), bytes::Bytes>);

    impl Memory {
        fn keep(&mut self, writes: Vec<Write>) {
            for Write { keyspace, key, value } in writes {
                match value {
                    Some(value) => self.0.insert((keyspace, key), value),
                    None => self.0.remove(&(keyspace, key)),
                };
            }
        }
    }

    impl Read for Memory {
        fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<bytes::Bytes>, String> {
            Ok(self.0.get(&(keyspace, key.to_vec())).cloned())
        }

        fn scan(
            &self,
            keyspace: Keyspace,
            prefix: &[u8],
            from: Option<&[u8]>,
            limit: usize,
        ) -> Result<Vec<(Vec<u8>, bytes::Bytes)>, String> {
            let from = (keyspace, from.unwrap_or(prefix).to_vec());
            let entries = self
                .0
                .range(from..)
                .take_while(|((space, key), _)| *space == keyspace && key.starts_with(prefix));
            Ok(entries.take(limit).map(|((_, key), value)| (key.clone(), value.clone())).collect())
        }
    }

    /// A host that serves the number `/app/n`, from what is stored.
    fn host(memory: &mut Memory) -> Host {
        let zero = [Document::Number(Number::I64(0))];
        let chain = [("/state/chain/sync", Document::List(&zero))];
        let members = [("n", Document::Map(&chain))];
        let clusters = [("/app", Document::Map(&members))];
        let configs = ClusterConfig::decode(Document::Map(&clusters)).expect("a configuration");
        let loaded =
            crate::load::load(memory, configs, Catalog::new("http://127.0.0.1:8702", [1; 32]), |_| [2; 32]);
        let loaded = loaded.expect("what is stored is sound");
        memory.keep(loaded.writes);
        let (catalog, chains, last_page) = (loaded.catalog, loaded.chains, loaded.last_page);
        Host::new(HostConfig {
            catalog,
            chains,
            last_page,
            inherited: Inherited::default(),
            limits: Limits::default(),
            threads: 1,
            now_ns: 0,
            monotonic_ns: 0,
        })
        .expect("a host")
    }

    fn ask(id: u64, verb: Verb, body: i64) -> Input {
        let path = Path::parse("/app/n").expect("a path");
        let (key, body) = (Value::None, Number::I64(body).into());
        let request = Request { verb, path, key, body, txn_id: None, rows_only: false };
        Input::Request { id: RequestId(id), request }
    }

    fn tick(host: &mut Host, events: Vec<Input>) -> Outputs {
        host.tick(Inputs { now_ns: 1_000, monotonic_ns: 1_000, events })
    }

    fn status(reply: &Reply) -> Option<ErrorKind> {
        reply.as_ref().err().map(Error::kind)
    }

    fn number(outputs: &Outputs, id: u64) -> i64 {
        match &outputs.replies.iter().find(|(answered, _)| answered.0 == id).expect("an answer").1 {
            Ok(State::Value(Value::Number(number))) => number.as_i64().expect("an integer"),
            other => panic!("not a number: {other:?}"),
        }
    }

    #[derive(Default, Resource)]
    struct Shared(u32);

    fn one(mut shared: ResMut<Shared>) {
        shared.0 += 1;
    }

    fn two(mut shared: ResMut<Shared>) {
        shared.0 *= 2;
    }

    #[test]
    fn systems_that_conflict_need_an_order() {
        let mut world = World::new();
        world.init_resource::<Shared>();
        let mut ambiguous = schedule();
        ambiguous.add_systems((one, two));
        let refusal = ambiguous.initialize(&mut world);
        assert!(refusal.is_err(), "two systems write one resource in no order");
        let mut ordered = schedule();
        ordered.add_systems((one, two).chain());
        ordered.initialize(&mut world).expect("they are in order");
    }

    /// How often the system after the one that panics has run.
    #[derive(Default, Resource)]
    struct Runs(u32);

    fn fail(registry: Res<Registry>) {
        if registry.commit_count >= 2 {
            panic!("a defect after the commit");
        }
    }

    fn count(mut runs: ResMut<Runs>) {
        runs.0 += 1;
    }

    #[test]
    fn a_panic_in_the_middle_of_a_tick_stores_nothing_of_it_and_skips_nothing_later() {
        let mut memory = Memory::default();
        let mut host = self::host(&mut memory);
        host.world.init_resource::<Runs>();
        host.round.add_systems((fail, count).chain().after(apply::apply));
        let outputs = tick(&mut host, vec![ask(1, Verb::Put, 5)]);
        memory.keep(outputs.batch.expect("a batch").writes);
        let runs = host.world.resource::<Runs>().0;
        assert!(runs > 0);
        // The second change is committed and applied when the panic comes.
        let outputs = tick(&mut host, vec![Input::Durable(1), ask(2, Verb::Put, 6)]);
        assert_eq!(outputs.poisoned.as_deref(), Some("a defect after the commit"));
        assert!(outputs.batch.is_none());
        let answers: Vec<_> = outputs.replies.iter().map(|(id, reply)| (id.0, status(reply))).collect();
        assert_eq!(answers, [(1, Some(ErrorKind::Internal)), (2, Some(ErrorKind::Internal))]);
        let outputs = tick(&mut host, vec![ask(3, Verb::Get, 0)]);
        assert_eq!(status(&outputs.replies[0].1), Some(ErrorKind::Internal));
        assert!(outputs.poisoned.is_some());

        let mut host = self::host(&mut memory);
        let outputs = tick(&mut host, vec![ask(4, Verb::Get, 0)]);
        assert_eq!(number(&outputs, 4), 5);
        let outputs = tick(&mut host, vec![ask(5, Verb::Put, 7)]);
        assert!(outputs.batch.is_some() && outputs.replies.is_empty());
        let outputs = tick(&mut host, vec![Input::Durable(1), ask(6, Verb::Get, 0)]);
        assert_eq!(number(&outputs, 6), 7);
        assert_eq!((outputs.replies.len(), outputs.poisoned), (2, None));
    }

    #[test]
    fn a_panic_of_one_program_is_the_answer_of_one_request() {
        let mut memory = Memory::default();
        let mut host = self::host(&mut memory);
        // Begin both, and swap the program of the first before any is polled.
        host.world.resource_mut::<Inbox>().0 = Inputs {
            now_ns: 1_000,
            monotonic_ns: 1_000,
            events: vec![ask(1, Verb::Put, 5), ask(2, Verb::Put, 6)],
        };
        host.begin.run(&mut host.world);
        let entity = host.world.resource::<Registry>().requests[&RequestId(1)];
        let ledger = host.world.get::<Program>(entity).expect("a program").ledger.clone();
        let defect = Program::new(Box::pin(async { panic!("a defect of a program") }), ledger);
        host.world.entity_mut(entity).insert(defect);
        let outputs = tick(&mut host, vec![]);
        assert_eq!(outputs.poisoned, None);
        assert_eq!(outputs.replies.len(), 1, "the other one waits for the disk");
        assert_eq!(
            (outputs.replies[0].0, status(&outputs.replies[0].1)),
            (RequestId(1), Some(ErrorKind::Internal))
        );
        let outputs = tick(&mut host, vec![Input::Durable(1), ask(3, Verb::Get, 0)]);
        assert!(outputs.replies.iter().any(|(id, reply)| *id == RequestId(2) && reply.is_ok()));
        assert_eq!(number(&outputs, 3), 6);
        assert_eq!(host.open_requests(), 0);
    }
}
