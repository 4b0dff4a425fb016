//! Bodies of replies: whole, or made while they are sent, no faster than the client reads.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use components::{Error, Result};
use http_body_util::Full;
use hyper::body::{Body, Frame, SizeHint};
use tokio_util::task::AbortOnDropHandle;

use super::Server;
use super::body::Charge;
use super::connection::{Activity, Progress};
use super::rows::Encoder;
use crate::gateway;

/// The body of a reply.
pub(super) enum ReplyBody {
    /// One whose length is known.
    Whole(Full<Bytes>),
    /// One that is being made.
    Streamed(Box<Streamed>),
}

/// Why a body ends before it is whole: the client must not take what it has for all.
#[derive(Debug, thiserror::Error)]
#[error("the reply broke off: {0}")]
pub(super) struct BrokenBody(Error);

/// What makes the chunks of a body, and what it keeps until it has made the last one.
pub(super) struct Production {
    pub(super) encoder: Encoder,
    pub(super) _pin: Option<gateway::Pin>,
    pub(super) _charge: Charge,
}

/// A chunk, and what makes the next one.
type Produced = (Box<Production>, Result<Option<Bytes>>);

/// A body that is being made: one chunk is ready or being made while the one before is sent.
pub(super) struct Streamed {
    server: Arc<Server>,
    activity: Arc<Activity>,
    progress: Arc<Progress>,
    ready: Option<Bytes>,
    next: Option<AbortOnDropHandle<Result<Produced>>>,
}

impl Streamed {
    /// A body that begins with a chunk.
    pub(super) fn new(
        server: Arc<Server>,
        activity: Arc<Activity>,
        first: Bytes,
        production: Box<Production>,
    ) -> Self {
        let progress = activity.stream();
        let mut body = Self { server, activity, progress, ready: Some(first), next: None };
        body.go_on(production);
        body
    }
}

/// Make the next chunk, on a thread where it stalls nobody. While that lasts, the client waits for us.
pub(super) async fn produce(
    server: Arc<Server>,
    activity: Arc<Activity>,
    mut production: Box<Production>,
) -> Result<Produced> {
    let _permit = server.streams.acquire().await.map_err(|_| Error::unavailable("the host is going down"))?;
    let _busy = activity.busy();
    let work = move || {
        let chunk = production.encoder.next();
        (production, chunk)
    };
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::internal("a reply could not be made"))
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = BrokenBody;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, BrokenBody>>> {
        match self.get_mut() {
            Self::Whole(body) => Pin::new(body).poll_frame(context).map_err(|never| match never {}),
            Self::Streamed(body) => match ready!(body.poll_chunk(context)) {
                Ok(chunk) => Poll::Ready(chunk.map(|chunk| Ok(Frame::data(chunk)))),
                Err(cause) => {
                    tracing::warn!("a reply broke off: {cause}");
                    Poll::Ready(Some(Err(BrokenBody(cause))))
                }
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_end_stream(),
            Self::Streamed(body) => body.ready.is_none() && body.next.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            Self::Streamed(_) => SizeHint::default(),
        }
    }
}

impl Streamed {
    fn poll_chunk(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>>> {
        loop {
            if let Some(chunk) = self.ready.take() {
                self.progress.wait_for_client();
                self.server.metrics.reply_body_bytes.fetch_add(chunk.len() as u64, Relaxed);
                return Poll::Ready(Ok(Some(chunk)));
            }
            let Some(next) = &mut self.next else {
                return Poll::Ready(Ok(None));
            };
            self.progress.wait_for_host();
            let produced = ready!(Pin::new(next).poll(context));
            self.next = None;
            let (production, chunk) =
                produced.unwrap_or_else(|_| Err(Error::internal("a reply could not be made")))?;
            if let Some(chunk) = chunk? {
                if !production.encoder.is_done() {
                    self.go_on(production);
                }
                self.ready = Some(chunk);
            }
        }
    }

    /// Begin with the next chunk, while this one is sent.
    fn go_on(&mut self, production: Box<Production>) {
        let next = produce(self.server.clone(), self.activity.clone(), production);
        self.next = Some(AbortOnDropHandle::new(tokio::spawn(next)));
    }
}
