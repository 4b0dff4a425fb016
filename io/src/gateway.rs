//! The way from a connection into the world and back.

use std::sync::Arc;

use components::cluster::Catalog;
use components::{Error, Reply, Request};
use crossbeam_channel::{Sender, TrySendError};
use tokio::sync::oneshot;

use world::Input;
pub use world::InspectQuery;

/// How many events may wait for the world. A request beyond that is answered 503.
pub const QUEUE_EVENTS_MAX: usize = 16_384;

/// What the edges tell the thread that owns the world.
#[derive(Debug)]
pub enum Event {
    /// A request to run. The reply channel is closed when its connection is.
    Request {
        /// What to run.
        request: Request,
        /// Where to answer.
        reply: oneshot::Sender<Reply>,
    },
    /// A question of the debug endpoint.
    Inspect {
        /// Which entities to show.
        query: InspectQuery,
        /// Where to answer, in JSON.
        reply: oneshot::Sender<serde_json::Value>,
    },
    /// Some connection went away: look which replies nobody waits for.
    Hangup,
    /// The storage has made everything up to this sequence durable.
    Durable(u64),
    /// What the world has asked the storage for.
    Loaded(Input),
    /// The storage has failed; the host must stop.
    StorageFailed(String),
    /// Take no more requests; stop when those that run have ended.
    Drain,
}

/// A handle to send requests into the world.
#[derive(Clone, Debug)]
pub struct Gateway {
    events: Sender<Event>,
    catalog: Arc<Catalog>,
}

/// Tells the world when a reply is no longer waited for.
struct HangupGuard<'a> {
    events: &'a Sender<Event>,
    answered: bool,
}

impl Drop for HangupGuard<'_> {
    fn drop(&mut self) {
        if !self.answered {
            // If the queue is full the world is busy and will notice the closed channel by itself.
            let _ = self.events.try_send(Event::Hangup);
        }
    }
}

impl Gateway {
    /// A gateway that sends events to the given channel, of a host that serves nothing.
    pub fn new(events: Sender<Event>) -> Self {
        Self { events, catalog: Arc::default() }
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
    /// # Errors
    /// That of the transaction; 503 if the host is full or going down.
    pub async fn call(&self, request: Request) -> Reply {
        let (reply, answer) = oneshot::channel();
        self.send(Event::Request { request, reply })?;
        let mut guard = HangupGuard { events: &self.events, answered: false };
        let answer = answer.await;
        guard.answered = true;
        answer.unwrap_or_else(|_| Err(Error::unavailable("the host went down before it answered")))
    }

    /// A frozen copy of (a part of) the world, as JSON.
    ///
    /// # Errors
    /// 503 if the host is full or going down.
    pub async fn inspect(&self, query: InspectQuery) -> Result<serde_json::Value, Error> {
        let (reply, answer) = oneshot::channel();
        self.send(Event::Inspect { query, reply })?;
        answer.await.map_err(|_| Error::unavailable("the host went down before it answered"))
    }
}
