//! Bodies of replies: whole, or made while they are sent, no faster than the client reads.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use components::{Error, Result};
use hyper::body::{Body, Frame, SizeHint};
use tokio_util::task::AbortOnDropHandle;

use super::activity::{Activity, Transfer, TransferKind};
use super::budget::Charge;
use super::rows::Encoder;
use super::server::Server;
use crate::gateway;

/// A reply is given to hyper in frames of at most so many bytes, each when the client has taken those before: hyper copies
/// them into a buffer of its own.
const FRAME_BYTES_MAX: usize = 64 * 1024;

/// The body of a reply.
pub(super) enum ReplyBody {
    /// One that is sent as a whole, if that is not yet done.
    Whole(Bytes),
    /// One that is sent in frames.
    Framed(Box<Frames>),
    /// One that is being made.
    Streamed(Box<Streamed>),
}

impl ReplyBody {
    /// This body, sent as it suits its connection: on HTTP/1.1 a small one needs no watching, since nothing else happens
    /// before it is sent. On HTTP/2 everything that a client leaves unread is held for it.
    pub(super) fn on(self, activity: &Arc<Activity>) -> Self {
        match self {
            Self::Whole(bytes)
                if bytes.len() > FRAME_BYTES_MAX || (activity.is_http2() && !bytes.is_empty()) =>
            {
                let transfer = activity.transfer(TransferKind::Reply, None);
                Self::Framed(Box::new(Frames::new(&transfer, bytes)))
            }
            body => body,
        }
    }
}

/// Bytes of a reply: as long as somebody holds them, it is on its way.
struct Sending {
    bytes: Bytes,
    _transfer: Arc<Transfer>,
}

impl AsRef<[u8]> for Sending {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Bytes that are sent in frames.
pub(super) struct Frames {
    rest: Bytes,
    transfer: Arc<Transfer>,
    /// How long the frame before was.
    sent_bytes: usize,
}

impl Frames {
    fn new(transfer: &Arc<Transfer>, bytes: Bytes) -> Self {
        let rest = Bytes::from_owner(Sending { bytes, _transfer: transfer.clone() });
        Self { rest, transfer: transfer.clone(), sent_bytes: 0 }
    }

    /// The next frame: hyper has room for it.
    fn next(&mut self) -> Option<Bytes> {
        if self.rest.is_empty() {
            return None;
        }
        self.transfer.wait_for_client(self.sent_bytes);
        let frame = self.rest.split_to(self.rest.len().min(FRAME_BYTES_MAX));
        self.sent_bytes = frame.len();
        Some(frame)
    }
}

/// Why a body ends before it is whole: the client must not take what it has for all.
#[derive(Debug, thiserror::Error)]
#[error("the reply broke off: {0}")]
pub(super) struct BrokenBody(Error);

/// What makes the chunks of a body, and what it keeps until it has made the last one.
pub(super) struct Production {
    pub(super) encoder: Encoder,
    pub(super) pin: Option<gateway::Pin>,
}

/// A chunk, and what makes the next one.
type Produced = (Box<Production>, Result<Option<Bytes>>);

/// A body that is being made: one chunk is ready or being made while the one before is sent.
pub(super) struct Streamed {
    server: Arc<Server>,
    transfer: Arc<Transfer>,
    ready: Frames,
    next: Option<AbortOnDropHandle<Result<Produced>>>,
}

impl Streamed {
    /// A body that begins with a chunk, and what it holds of the budget.
    pub(super) fn new(
        server: Arc<Server>,
        activity: &Arc<Activity>,
        first: Bytes,
        production: Box<Production>,
        charge: Charge,
    ) -> Self {
        let transfer = activity.transfer(TransferKind::Reply, Some(charge));
        if let Some(pin) = &production.pin {
            transfer.set_revoked(pin.revoked().clone());
        }
        let ready = Frames::new(&transfer, first);
        let mut body = Self { server, transfer, ready, next: None };
        body.go_on(production);
        body
    }
}

/// Make the next chunk, on a thread where it stalls nobody. Who has more to do for one has turns with others.
pub(super) async fn produce(server: Arc<Server>, mut production: Box<Production>) -> Result<Produced> {
    loop {
        // Before the first chunk nobody else looks.
        if production.pin.as_ref().is_some_and(|pin| pin.revoked().is_cancelled()) {
            return Err(Error::unavailable("what it reads takes too much room: others have replaced it"));
        }
        let permit = server.streams.acquire().await;
        let _permit = permit.map_err(|_| Error::unavailable("the host is going down"))?;
        let work = move || {
            let chunk = production.encoder.next();
            (production, chunk)
        };
        let produced = tokio::task::spawn_blocking(work).await;
        let (more, chunk) = produced.map_err(|_| Error::internal("a reply could not be made"))?;
        if !matches!(&chunk, Ok(Some(bytes)) if bytes.is_empty()) {
            return Ok((more, chunk));
        }
        production = more;
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = BrokenBody;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, BrokenBody>>> {
        match self.get_mut() {
            Self::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Framed(body) => Poll::Ready(body.next().map(|frame| Ok(Frame::data(frame)))),
            Self::Streamed(body) => match ready!(body.poll_next(context)) {
                Ok(frame) => Poll::Ready(frame.map(|frame| Ok(Frame::data(frame)))),
                Err(cause) => {
                    tracing::warn!("a reply broke off: {cause}");
                    Poll::Ready(Some(Err(BrokenBody(cause))))
                }
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_empty(),
            Self::Framed(body) => body.rest.is_empty(),
            Self::Streamed(body) => body.ready.rest.is_empty() && body.next.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Framed(body) => SizeHint::with_exact(body.rest.len() as u64),
            Self::Streamed(_) => SizeHint::default(),
        }
    }
}

impl Streamed {
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>>> {
        loop {
            if self.transfer.is_revoked() {
                return Poll::Ready(Err(Error::unavailable(
                    "it is read so slowly that what it shows takes too much room: others have replaced it",
                )));
            }
            if let Some(frame) = self.ready.next() {
                self.server.metrics.reply_body_bytes.fetch_add(frame.len() as u64, Relaxed);
                return Poll::Ready(Ok(Some(frame)));
            }
            let Some(next) = &mut self.next else {
                return Poll::Ready(Ok(None));
            };
            self.transfer.wait_for_host(std::mem::take(&mut self.ready.sent_bytes));
            let produced = ready!(Pin::new(next).poll(context));
            self.next = None;
            let (production, chunk) =
                produced.unwrap_or_else(|_| Err(Error::internal("a reply could not be made")))?;
            if let Some(chunk) = chunk? {
                if !production.encoder.is_done() {
                    self.go_on(production);
                }
                self.ready = Frames::new(&self.transfer, chunk);
            }
        }
    }

    /// Begin with the next chunk, while this one is sent.
    fn go_on(&mut self, production: Box<Production>) {
        self.next = Some(AbortOnDropHandle::new(tokio::spawn(produce(self.server.clone(), production))));
    }
}
