//! The way from a connection into the world and back.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use components::hosting::cluster::Catalog;
use components::transaction::RequestId;
use components::{Error, Reply, Request};
use crossbeam_channel::{Sender, TrySendError};
use tokio::sync::{Semaphore, oneshot};
use tokio_util::sync::CancellationToken;

use crate::pages::Pages;
use crate::workspace::Workspace;
use world::Input;
pub use world::InspectQuery;

/// How many events may wait for the world. A request beyond that is answered 503.
pub const QUEUE_EVENTS_MAX: usize = 16_384;

/// How long an inspection waits for those before it, which are one at a time.
const INSPECTION_WAIT_MAX: Duration = Duration::from_secs(2);

/// What the edges tell the thread that owns the world.
#[derive(Debug)]
pub enum Event {
    /// A request to run. The reply channel is closed when its connection is.
    Request {
        /// What to call it.
        id: RequestId,
        /// What to run.
        request: Request,
        /// Where to answer.
        reply: oneshot::Sender<Answer>,
    },
    /// A question of the debug endpoint.
    Inspect {
        /// Which entities to show.
        query: InspectQuery,
        /// Where to answer, in JSON.
        reply: oneshot::Sender<serde_json::Value>,
    },
    /// Nobody waits for the reply to this request any more.
    Hangup(RequestId),
    /// Some answers that stream are not read any more: [`Pins`] knows which.
    Unpinned,
    /// More is durable: [`Persistence::durable`](crate::persistence::Persistence::durable) knows up to where.
    Durable,
    /// What the world has asked the storage for.
    Loaded(Input),
    /// The storage had no room for a batch, and takes none before [`Persistence::restart`](
    /// crate::persistence::Persistence::restart).
    StorageRefused(String),
    /// The storage has failed; the host must stop.
    StorageFailed(String),
    /// Take no more requests; stop when those that run have ended.
    Drain,
}

/// The answer to a request.
#[derive(Debug)]
pub struct Answer {
    /// The reply.
    pub reply: Reply,
    /// Held as long as the reply may read pages, if it does.
    pub pin: Option<Pin>,
    /// How many rows the writes of the transaction have touched; none if it has not written.
    pub rows_written: Option<u64>,
}

impl From<Reply> for Answer {
    /// An answer that reads no pages.
    fn from(reply: Reply) -> Self {
        Self { reply, pin: None, rows_written: None }
    }
}

/// The answers that are still to be read from pages.
#[derive(Clone, Debug)]
pub struct Pins {
    pinned: Arc<Mutex<Pinned>>,
    events: Sender<Event>,
}

#[derive(Debug, Default)]
struct Pinned {
    /// Those that are being read, with what tells them to end.
    live: BTreeMap<RequestId, CancellationToken>,
    /// Those that are not read any more, of which the world has not been told.
    unpinned: Vec<RequestId>,
}

impl Pins {
    /// None so far; `events` wakes the world.
    pub fn new(events: Sender<Event>) -> Self {
        Self { pinned: Arc::default(), events }
    }

    /// A pin for the answer to this request.
    pub fn pin(&self, id: RequestId) -> Pin {
        let revoked = CancellationToken::new();
        self.pinned().live.insert(id, revoked.clone());
        Pin { id, revoked, pins: self.clone() }
    }

    /// The answers that are not read any more since the last call.
    pub fn take(&self) -> Vec<RequestId> {
        std::mem::take(&mut self.pinned().unpinned)
    }

    /// The answers that are being read.
    pub fn live(&self) -> Vec<RequestId> {
        self.pinned().live.keys().copied().collect()
    }

    /// The world does not keep the pages of this answer any more.
    pub fn revoke(&self, id: RequestId) {
        if let Some(revoked) = self.pinned().live.get(&id) {
            revoked.cancel();
        }
    }

    fn pinned(&self) -> MutexGuard<'_, Pinned> {
        self.pinned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps the pages that an answer reads, until it is dropped.
#[derive(Debug)]
pub struct Pin {
    id: RequestId,
    revoked: CancellationToken,
    pins: Pins,
}

impl Pin {
    /// Cancelled when the pages are not kept any more, because the answer is read too slowly and they take too much: it
    /// must be broken off.
    pub fn revoked(&self) -> &CancellationToken {
        &self.revoked
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let pinned = &mut *self.pins.pinned();
        pinned.live.remove(&self.id);
        pinned.unpinned.push(self.id);
        // If the queue is full the world is busy, and looks after what is in it.
        let _ = self.pins.events.try_send(Event::Unpinned);
    }
}

/// A handle to send requests into the world.
#[derive(Clone, Debug)]
pub struct Gateway {
    events: Sender<Event>,
    requests: Arc<AtomicU64>,
    pages: Pages,
    workspace: Option<Arc<Workspace>>,
    catalog: Arc<Catalog>,
    /// There is one inspection at a time.
    inspections: Arc<Semaphore>,
}

/// Tells the world when a reply is no longer waited for.
struct HangupGuard<'a> {
    events: &'a Sender<Event>,
    id: RequestId,
    answered: bool,
}

impl Drop for HangupGuard<'_> {
    fn drop(&mut self) {
        if !self.answered {
            // If the queue is full the world is busy, and notices the closed channel later.
            let _ = self.events.try_send(Event::Hangup(self.id));
        }
    }
}

impl Gateway {
    /// A gateway that sends events to the given channel, of a host that serves nothing.
    pub fn new(events: Sender<Event>) -> Self {
        Self {
            events,
            requests: Arc::default(),
            pages: Pages::default(),
            workspace: None,
            catalog: Arc::default(),
            inspections: Arc::new(Semaphore::new(1)),
        }
    }

    /// A gateway whose answers may be read from these pages.
    pub fn with_pages(self, pages: Pages) -> Self {
        Self { pages, ..self }
    }

    /// A gateway whose requests may have more rows than fit in memory.
    pub fn with_workspace(self, workspace: Arc<Workspace>) -> Self {
        let pages = self.pages.with_workspace(workspace.clone());
        Self { pages, workspace: Some(workspace), ..self }
    }

    /// Where rows go that do not fit in memory.
    pub fn workspace(&self) -> Option<&Arc<Workspace>> {
        self.workspace.as_ref()
    }

    /// The pages that answers are read from.
    pub fn pages(&self) -> &Pages {
        &self.pages
    }

    /// The same gateway, of a host that serves what is in the catalog.
    pub fn with_catalog(self, catalog: Arc<Catalog>) -> Self {
        Self { catalog, ..self }
    }

    /// What the host serves.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    fn send(&self, event: Event) -> Result<(), Error> {
        self.events.try_send(event).map_err(|cause| match cause {
            TrySendError::Full(_) => Error::unavailable("too many requests wait; try again in a second"),
            TrySendError::Disconnected(_) => Error::unavailable("the host is going down"),
        })
    }

    /// Run a request as one transaction.
    ///
    /// The answer is that of the transaction; 503 if the host is full or going down.
    pub async fn call(&self, request: Request) -> Answer {
        let (reply, answer) = oneshot::channel();
        let id = RequestId(self.requests.fetch_add(1, Ordering::Relaxed));
        if let Err(cause) = self.send(Event::Request { id, request, reply }) {
            return Err(cause).into();
        }
        let mut guard = HangupGuard { events: &self.events, id, answered: false };
        let answer = answer.await;
        guard.answered = true;
        answer.unwrap_or_else(|_| Err(Error::unavailable("the host went down before it answered")).into())
    }

    /// A copy of (a part of) the world, as JSON.
    ///
    /// # Errors
    /// 503 if the host is full or going down, or if others are inspecting it.
    pub async fn inspect(&self, query: InspectQuery) -> Result<serde_json::Value, Error> {
        let turn = tokio::time::timeout(INSPECTION_WAIT_MAX, self.inspections.acquire()).await;
        let _turn =
            turn.map_err(|_| Error::unavailable("others are inspecting the host; try again in a second"))?;
        let (reply, answer) = oneshot::channel();
        self.send(Event::Inspect { query, reply })?;
        answer.await.map_err(|_| Error::unavailable("the host went down before it answered"))
    }
}
