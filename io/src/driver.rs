//! The thread that owns the world: it waits for events, ticks, and hands on what comes out.

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use components::language::reference::Verb;
use components::transaction::RequestId;
use components::{Error, Request, State};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use world::{Host, Input, Inputs, Inspection, Outputs, Room, panic_message};

use crate::gateway::{Answer, Event, Pins};
use crate::jobs::Jobs;
use crate::metrics::Metrics;
use crate::persistence::Persistence;

/// How many events a tick takes at most; the rest waits for the next one. Of a burst of requests, the first are made
/// durable and answered while the world still works on the last: with ticks of any length, all clients would wait for
/// the world, then for the storage, then it for them.
const EVENTS_PER_TICK_MAX: usize = 32;

/// How many bytes may be on their way to the disk before requests that may write are held back.
const PENDING_BYTES_MAX: u64 = 64 << 20;

/// How many requests are held back at most; those beyond are answered 503.
const HELD_REQUESTS_MAX: usize = 4_096;

/// How long requests that run may take to finish when the host is asked to stop, unless told.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(1_000);

/// How often a world may be made anew after a defect, within [`REBUILDS_PERIOD`], before the process gives up.
const REBUILDS_MAX: usize = 8;

/// Defects that were longer ago do not count.
const REBUILDS_PERIOD: Duration = Duration::from_secs(3_600);

/// How often all that wait are looked at for some that have gone without a word.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// A part of an inspection is followed by so many times as long without one: so those who inspect the host in a loop take a
/// fifth of its time.
const INSPECTION_PAUSE: u32 = 4;

/// How long it is from the end of one inspection to the beginning of the next one at least.
const INSPECTION_INTERVAL: Duration = Duration::from_millis(20);

/// Why the driver has ended.
#[derive(Debug, Eq, PartialEq)]
pub enum Ended {
    /// It was asked to.
    Drained,
    /// The storage or the world has failed: the process must not go on.
    Failed(String),
}

/// An answer and who waits for it.
#[derive(Debug)]
pub struct Delivery {
    sender: oneshot::Sender<Answer>,
    answer: Answer,
}

/// Where the driver leaves its answers.
#[derive(Debug)]
pub struct Answers {
    deliveries: UnboundedSender<Vec<Delivery>>,
    pins: Pins,
}

/// A way for answers from a driver to [`distribute`]. `events` are those of the driver.
pub fn answers(events: Sender<Event>) -> (Answers, UnboundedReceiver<Vec<Delivery>>) {
    let (sender, deliveries) = unbounded_channel();
    (Answers { deliveries: sender, pins: Pins::new(events) }, deliveries)
}

/// Give answers to those who wait for them, as a task beside theirs: then a tick wakes one thread once, whose other
/// tasks need no waking, and not a thread for each answer.
pub async fn distribute(mut answers: UnboundedReceiver<Vec<Delivery>>) {
    while let Some(answers) = answers.recv().await {
        for Delivery { sender, answer } in answers {
            // Whoever has gone does not want the answer.
            let _ = sender.send(answer);
        }
    }
}

/// Makes a world from what is stored; these answers of the one before it are still to be read.
pub type MakeHost = Box<dyn FnMut(Vec<RequestId>) -> Result<Host, String> + Send>;

/// Owns the world.
pub struct Driver {
    host: Host,
    make_host: MakeHost,
    events: Receiver<Event>,
    answers: Answers,
    persistence: Option<Persistence>,
    jobs: Option<Jobs>,
    metrics: Arc<Metrics>,
    ready: Arc<AtomicBool>,
    waiting: BTreeMap<RequestId, oneshot::Sender<Answer>>,
    /// When it was last looked who among all that wait has gone.
    swept: Instant,
    /// Requests that wait for the disk to keep up, in order of arrival.
    held: VecDeque<(RequestId, Request, oneshot::Sender<Answer>)>,
    /// What the world knows of the room on the disk.
    room: Room,
    /// The newest batch that was handed to the storage, and the newest that is durable.
    batch_sent: u64,
    batch_durable: u64,
    next_deadline_ns: Option<u64>,
    is_busy: bool,
    drain_timeout: Duration,
    drain_by: Option<Instant>,
    /// The inspections that are under way or wait, and when the next part of one may be done.
    inspections: VecDeque<(Inspection, oneshot::Sender<serde_json::Value>)>,
    next_inspection: Instant,
    /// When the world was made anew after a defect.
    rebuilds: VecDeque<Instant>,
}

/// The clock of this machine, in nanoseconds since the Unix epoch. Somebody may set it back or forward.
pub fn now_ns() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX)
}

/// Nanoseconds since this was called first, by a clock that nobody sets.
pub fn monotonic_ns() -> u64 {
    static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(BEGAN.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

impl Driver {
    /// A driver of the world that `make_host` makes. The other end of `answers` is for [`distribute`].
    ///
    /// # Errors
    /// Why there is no such world.
    pub fn new(
        mut make_host: MakeHost,
        events: Receiver<Event>,
        answers: Answers,
        persistence: Option<Persistence>,
        jobs: Option<Jobs>,
        metrics: Arc<Metrics>,
        ready: Arc<AtomicBool>,
    ) -> Result<Self, String> {
        Ok(Self {
            host: make_host(Vec::new())?,
            make_host,
            events,
            answers,
            persistence,
            jobs,
            metrics,
            ready,
            waiting: BTreeMap::new(),
            swept: Instant::now(),
            held: VecDeque::new(),
            room: Room::PLENTY,
            batch_sent: 0,
            batch_durable: 0,
            next_deadline_ns: None,
            // What was left behind is looked after at once.
            is_busy: true,
            drain_timeout: DRAIN_TIMEOUT,
            drain_by: None,
            inspections: VecDeque::new(),
            next_inspection: Instant::now(),
            rebuilds: VecDeque::new(),
        })
    }

    /// The same, with so much time for requests that run when the host is asked to stop.
    pub fn with_drain_timeout(self, drain_timeout: Duration) -> Self {
        Self { drain_timeout, ..self }
    }

    /// Drive until the host is asked to stop, or cannot go on.
    pub fn run(mut self) -> Ended {
        let ended = loop {
            if let Some(ended) = self.step() {
                break ended;
            }
        };
        self.ready.store(false, Ordering::Relaxed);
        for (_, reply) in std::mem::take(&mut self.waiting) {
            let _ = reply.send(
                Err(Error::unavailable("the host is going down; it is not known what happened")).into(),
            );
        }
        for (_, _, reply) in std::mem::take(&mut self.held) {
            let _ = reply.send(Err(Error::unavailable("the host is going down")).into());
        }
        if let Some(persistence) = self.persistence.take() {
            // The queue may be full: nobody must wait for room in it any more.
            drop(self.events);
            persistence.close();
        }
        ended
    }

    /// Wait for events, tick once, hand on what comes out.
    fn step(&mut self) -> Option<Ended> {
        let mut inputs = Vec::new();
        let event = self.wait();
        self.inspect();
        // Without an event it is time for something, or there is more to do.
        let is_due = self.is_busy || (event.is_none() && self.is_deadline());
        if let Some(event) = event
            && let Some(ended) = self.take(event, &mut inputs)
        {
            return Some(ended);
        }
        self.take_held(&mut inputs);
        // Those count, too, that are no input.
        for _ in inputs.len()..EVENTS_PER_TICK_MAX {
            let Ok(event) = self.events.try_recv() else { break };
            if let Some(ended) = self.take(event, &mut inputs) {
                return Some(ended);
            }
        }
        if let Some(drain_by) = self.drain_by
            && ((self.is_idle() && inputs.is_empty()) || Instant::now() >= drain_by)
        {
            return Some(Ended::Drained);
        }
        inputs.extend(self.answers.pins.take().into_iter().map(Input::Unpin));
        // Answers that have waited for the storage leave before the work of the tick: clients go on beside it.
        if let Some(durable) = self.take_durable() {
            let ended = self.tick(vec![durable]);
            if ended.is_some() || inputs.is_empty() {
                return ended;
            }
        }
        if inputs.is_empty() && !is_due {
            return None;
        }
        self.tick(inputs)
    }

    /// Whether nobody waits for anything.
    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.held.is_empty() && self.batch_sent == self.batch_durable
    }

    /// What has become durable since the last call. It does not wait behind requests.
    fn take_durable(&mut self) -> Option<Input> {
        let durable = self.persistence.as_ref()?.durable();
        let is_more = durable > self.batch_durable;
        self.batch_durable = durable;
        is_more.then_some(Input::Durable(durable))
    }

    fn tick(&mut self, mut events: Vec<Input>) -> Option<Ended> {
        let room = self.persistence.as_ref().map_or(Room::PLENTY, Persistence::room);
        if room != self.room {
            self.room = room;
            events.insert(0, Input::Room(room));
        }
        let begun_ns = monotonic_ns();
        let outputs = self.host.tick(Inputs { now_ns: now_ns(), monotonic_ns: begun_ns, events });
        self.metrics.count_tick((monotonic_ns() - begun_ns) / 1_000);
        self.hand_on(outputs)
    }

    /// Whether it is time for something that the world must do.
    fn is_deadline(&self) -> bool {
        self.next_deadline_ns.is_some_and(|ns| ns <= monotonic_ns())
    }

    /// Do a part of an inspection, if it is time for one.
    fn inspect(&mut self) {
        // Those who went away want no answer.
        while self.inspections.pop_front_if(|(_, reply)| reply.is_closed()).is_some() {}
        if self.inspections.is_empty() {
            return;
        }
        let begun = Instant::now();
        let Some((inspection, _)) = self.inspections.front_mut().filter(|_| begun >= self.next_inspection)
        else {
            return;
        };
        let Ok(shown) = catch_unwind(AssertUnwindSafe(|| self.host.advance(inspection))) else {
            // It is the failure of who inspects, and of nobody else.
            tracing::error!("an inspection panicked");
            self.inspections.pop_front();
            return;
        };
        let ended = Instant::now();
        self.next_inspection = ended + INSPECTION_PAUSE * (ended - begun);
        if let Some(shown) = shown {
            let (_, reply) = self.inspections.pop_front().expect("an inspection");
            let _ = reply.send(shown);
            self.next_inspection = self.next_inspection.max(ended + INSPECTION_INTERVAL);
        }
    }

    /// The next event, if one comes before the world has to tick anyway.
    fn wait(&self) -> Option<Event> {
        if self.is_busy || self.is_held_due() || (self.drain_by.is_some() && self.is_idle()) {
            return self.events.try_recv().ok();
        }
        let by_deadline =
            self.next_deadline_ns.map(|ns| Duration::from_nanos(ns.saturating_sub(monotonic_ns())));
        let by_drain = self.drain_by.map(|by| by.saturating_duration_since(Instant::now()));
        let by_inspection = self.inspections.front();
        let by_inspection =
            by_inspection.map(|_| self.next_inspection.saturating_duration_since(Instant::now()));
        match by_deadline.into_iter().chain(by_drain).chain(by_inspection).min() {
            Some(timeout) => match self.events.recv_timeout(timeout) {
                Ok(event) => Some(event),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => Some(Event::Drain),
            },
            None => Some(self.events.recv().unwrap_or(Event::Drain)),
        }
    }

    fn take(&mut self, event: Event, inputs: &mut Vec<Input>) -> Option<Ended> {
        match event {
            Event::Request { reply, .. } if self.drain_by.is_some() => {
                let _ = reply.send(Err(Error::unavailable("the host is going down")).into());
            }
            // Who has gone already wants nothing.
            Event::Request { reply, .. } if reply.is_closed() => {}
            Event::Request { id, request, reply } if request.verb != Verb::Get && self.is_disk_behind() => {
                if self.held.len() < HELD_REQUESTS_MAX {
                    self.held.push_back((id, request, reply));
                } else {
                    let refusal = Error::unavailable("the disk is behind; try again in a second");
                    let _ = reply.send(Err(refusal).into());
                }
            }
            Event::Request { id, request, reply } => self.begin(id, request, reply, inputs),
            Event::Inspect { query, reply } => {
                self.inspections.push_back((Inspection::new(query), reply));
            }
            Event::Hangup(id) => {
                if self.waiting.contains_key(&id) {
                    inputs.push(Input::Cancel(id));
                }
                // Of those that found no room in the queue.
                if self.swept.elapsed() > SWEEP_INTERVAL {
                    let gone = self.waiting.iter().filter(|(_, reply)| reply.is_closed()).map(|(id, _)| *id);
                    inputs.extend(gone.filter(|gone| *gone != id).map(Input::Cancel));
                    self.swept = Instant::now();
                }
            }
            // These are looked after before each tick.
            Event::Unpinned | Event::Durable => {}
            Event::Loaded(input) => {
                if let (Input::Job { id, .. }, Some(jobs)) = (&input, &self.jobs) {
                    jobs.end(*id);
                }
                inputs.push(input);
            }
            Event::StorageRefused(why) => return self.begin_again(&why, inputs),
            Event::StorageFailed(why) => {
                self.metrics.poisoned.store(true, Ordering::Relaxed);
                return Some(Ended::Failed(format!("the storage has failed: {why}")));
            }
            Event::Drain => {
                self.ready.store(false, Ordering::Relaxed);
                self.drain_by.get_or_insert_with(|| Instant::now() + self.drain_timeout);
            }
        }
        None
    }

    fn begin(
        &mut self,
        id: RequestId,
        request: Request,
        reply: oneshot::Sender<Answer>,
        inputs: &mut Vec<Input>,
    ) {
        self.waiting.insert(id, reply);
        inputs.push(Input::Request { id, request });
    }

    /// Whether so much is on its way to the disk that memory would run out if more came.
    fn is_disk_behind(&self) -> bool {
        let pending_bytes = self.persistence.as_ref().map_or(0, Persistence::pending_bytes);
        pending_bytes > PENDING_BYTES_MAX || !self.held.is_empty()
    }

    /// Whether requests that were held back can begin.
    fn is_held_due(&self) -> bool {
        let is_behind = |persistence: &Persistence| persistence.pending_bytes() > PENDING_BYTES_MAX;
        !self.held.is_empty() && !self.persistence.as_ref().is_some_and(is_behind)
    }

    /// Let requests begin that were held back, if the disk keeps up again.
    fn take_held(&mut self, inputs: &mut Vec<Input>) {
        while self.is_held_due()
            && inputs.len() < EVENTS_PER_TICK_MAX
            && let Some((id, request, reply)) = self.held.pop_front()
        {
            if !reply.is_closed() {
                self.begin(id, request, reply, inputs);
            }
        }
    }

    /// There was no room on the disk for what the world has committed: nobody was told of it, so the world is made anew
    /// from what is durable, without it. Those who wait may have seen it.
    fn begin_again(&mut self, why: &str, inputs: &mut Vec<Input>) -> Option<Ended> {
        tracing::warn!("the world is made anew without a write that the storage refused: {why}");
        for (_, reply) in std::mem::take(&mut self.waiting) {
            let refusal = Error::unavailable(format_args!("{why}; nothing was done, reads go on"));
            let _ = reply.send(Err(refusal).into());
        }
        // They are for the world that goes.
        inputs.clear();
        self.make_anew(why)
    }

    /// Make a world from what is durable.
    fn make_anew(&mut self, why: &str) -> Option<Ended> {
        self.jobs.iter().for_each(Jobs::end_all);
        // Answers that were given are still being read; their pages must stay.
        let answers = self.answers.pins.live();
        let made = catch_unwind(AssertUnwindSafe(|| (self.make_host)(answers)));
        match made.unwrap_or_else(|panic| Err(panic_message(&*panic))) {
            Ok(host) => self.host = host,
            Err(cause) => return Some(Ended::Failed(format!("{cause}, after: {why}"))),
        }
        self.persistence.iter().for_each(Persistence::restart);
        (self.batch_sent, self.batch_durable) = (0, 0);
        // What was left behind is looked after at once.
        (self.is_busy, self.next_deadline_ns) = (true, None);
        self.room = Room::PLENTY;
        None
    }

    fn hand_on(&mut self, outputs: Outputs) -> Option<Ended> {
        if let Some(batch) = outputs.batch {
            match &self.persistence {
                Some(persistence) => {
                    self.batch_sent = batch.sequence;
                    persistence.commit(batch);
                }
                None => unreachable!("a host without storage has no chains, so nothing to persist"),
            }
        }
        for (id, job) in outputs.jobs {
            self.jobs.as_ref().expect("a world that has jobs has threads for them").begin(id, job);
        }
        for id in outputs.ended_jobs {
            self.jobs.as_ref().expect("a world that has jobs has threads for them").end(id);
        }
        for load in outputs.loads {
            self.persistence.as_ref().expect("what is loaded was stored").load(load);
        }
        let mut answers = Vec::with_capacity(outputs.replies.len());
        let mut rows_written = outputs.rows_written.into_iter().peekable();
        for (id, reply) in outputs.replies {
            let rows_written = rows_written.next_if(|(written, _)| *written == id).map(|(_, rows)| rows);
            let pin = reply.as_ref().is_ok_and(State::is_streamed).then(|| self.answers.pins.pin(id));
            if let Some(sender) = self.waiting.remove(&id) {
                answers.push(Delivery { sender, answer: Answer { reply, pin, rows_written } });
            }
        }
        outputs.revoked.into_iter().for_each(|id| self.answers.pins.revoke(id));
        if !answers.is_empty() {
            // If nobody distributes answers any more, nobody waits for one.
            let _ = self.answers.deliveries.send(answers);
        }
        self.is_busy = outputs.is_busy;
        self.next_deadline_ns = outputs.next_deadline_ns;
        self.count();
        outputs.poisoned.and_then(|why| self.rebuild(&why))
    }

    /// After a defect the world is made anew from what is durable; every open request has been answered 500.
    fn rebuild(&mut self, why: &str) -> Option<Ended> {
        let now = Instant::now();
        while self.rebuilds.pop_front_if(|then| now.duration_since(*then) >= REBUILDS_PERIOD).is_some() {}
        self.rebuilds.push_back(now);
        tracing::error!(
            "the world is made anew from storage after a defect ({} within an hour): {why}",
            self.rebuilds.len()
        );
        if self.rebuilds.len() > REBUILDS_MAX {
            return Some(Ended::Failed(format!("too many defects, the last one: {why}")));
        }
        // What was committed before the defect becomes durable first: it may have been promised to others.
        let mut deferred = Vec::new();
        let is_pending = |persistence: &Persistence| persistence.durable() < self.batch_sent;
        while self.persistence.as_ref().is_some_and(is_pending) {
            match self.events.recv() {
                Ok(Event::StorageFailed(why)) => {
                    return Some(Ended::Failed(format!("the storage has failed: {why}")));
                }
                // What has no room is not durable, and the world is made anew without it anyway.
                Ok(Event::StorageRefused(_)) => break,
                Ok(Event::Durable | Event::Loaded(_) | Event::Hangup(_) | Event::Unpinned) => {}
                Ok(event) => deferred.push(event),
                Err(_) => return Some(Ended::Drained),
            }
        }
        if let Some(ended) = self.make_anew(why) {
            return Some(ended);
        }
        let mut inputs = Vec::new();
        let ended = deferred.into_iter().find_map(|event| self.take(event, &mut inputs));
        if ended.is_none() && !inputs.is_empty() {
            let outputs =
                self.host.tick(Inputs { now_ns: now_ns(), monotonic_ns: monotonic_ns(), events: inputs });
            return self.hand_on(outputs);
        }
        ended
    }

    fn count(&self) {
        let statistics = self.host.statistics();
        let set = |counter: &std::sync::atomic::AtomicU64, value| counter.store(value, Ordering::Relaxed);
        set(&self.metrics.transactions_committed, statistics.committed);
        set(&self.metrics.transactions_aborted, statistics.failed);
        set(&self.metrics.transactions_retried, statistics.retried);
        set(&self.metrics.transactions_conflicted, statistics.conflicts + statistics.retried);
        set(&self.metrics.transactions_timed_out, statistics.timeouts);
    }
}
