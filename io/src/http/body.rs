//! Reading the body of a request, within limits (protocol page 01 §8).

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use components::{Error, Result};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use tokio::time::{Instant, timeout, timeout_at};

use super::activity::{Activity, Transfer, TransferKind};
use super::budget::Charge;
use super::limits::HttpConfig;

/// How much is set aside for a body before any of it has arrived, whatever length it declares.
const RESERVED_BYTES_MAX: usize = 64 * 1024;

/// How much of a body that is not wanted is read, and for how long, so that the client gets to read the reply.
const DISCARDED_BYTES_MAX: usize = 1024 * 1024;
const DISCARD_TIMEOUT: Duration = Duration::from_millis(500);

/// How fast a body has to arrive that may be of any length, on the whole and beyond the time that every body has.
const STREAM_BYTES_PER_S_MIN: u64 = 1 << 20;

/// A body as it arrives, within time limits.
pub(super) struct Arrival<'a> {
    body: &'a mut Incoming,
    activity: &'a Arc<Activity>,
    /// How it gets on, from when it has to be waited for.
    transfer: Option<Arc<Transfer>>,
    /// When it has to be there, from when it has to be waited for.
    deadline: Option<Instant>,
    timeout: Duration,
    idle_timeout: Duration,
    /// How much has come since the host has last waited for some, in bytes.
    bytes: usize,
}

impl<'a> Arrival<'a> {
    /// Nothing has arrived yet.
    pub(super) fn new(body: &'a mut Incoming, activity: &'a Arc<Activity>, config: &HttpConfig) -> Self {
        let timeout = Duration::from_millis(config.body_timeout_ms);
        let idle_timeout = Duration::from_millis(config.body_idle_timeout_ms);
        Self { body, activity, transfer: None, deadline: None, timeout, idle_timeout, bytes: 0 }
    }

    /// Begin the time limit anew, after it was us who took time.
    pub(super) fn resume(&mut self) {
        self.deadline = None;
    }

    /// How long the body is at least.
    pub(super) fn bytes_min(&self) -> u64 {
        self.body.size_hint().lower()
    }

    /// Let the rest take longer: as long as so many bytes take that have arrived.
    pub(super) fn extend(&mut self, bytes: usize) {
        if let Some(deadline) = &mut self.deadline {
            *deadline += Duration::from_micros(bytes as u64 * 1_000_000 / STREAM_BYTES_PER_S_MIN);
        }
    }

    /// The next bytes; none at the end.
    ///
    /// # Errors
    /// 408 if they are slow, 400 if the body is malformed.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if self.body.is_end_stream() {
                return Ok(None);
            }
            let mut frame = self.body.frame();
            // What is here needs no clock.
            let frame = match poll_fn(|context| Poll::Ready(Pin::new(&mut frame).poll(context))).await {
                Poll::Ready(frame) => frame,
                Poll::Pending => {
                    let transfer =
                        self.transfer.get_or_insert_with(|| self.activity.transfer(TransferKind::Body, None));
                    transfer.wait_for_client(std::mem::take(&mut self.bytes));
                    let now = Instant::now();
                    let deadline = *self.deadline.get_or_insert(now + self.timeout);
                    let frame =
                        timeout_at(deadline.min(now + transfer.patience(self.idle_timeout)), frame).await;
                    transfer.wait_for_host(0);
                    frame.map_err(|_| Error::timeout("the body of the request took too long to arrive"))?
                }
            };
            let Some(frame) = frame else { return Ok(None) };
            let frame = frame.map_err(|error| {
                Error::bad_request(format_args!("the body of the request did not arrive: {error}"))
            })?;
            if let Ok(chunk) = frame.into_data() {
                self.bytes += chunk.len();
                return Ok(Some(chunk));
            }
        }
    }

    /// Read what is to be held in memory, `bytes_max` at most; whether that was all.
    ///
    /// # Errors
    /// 408 if it is slow, 503 if there are too many bodies, 400 if it is malformed.
    pub(super) async fn read(&mut self, bytes_max: usize, charge: &mut Charge) -> Result<(Vec<u8>, bool)> {
        // At most RESERVED_BYTES_MAX, so the conversion is exact.
        let mut bytes = Vec::with_capacity(self.bytes_min().min(RESERVED_BYTES_MAX as u64) as usize);
        while let Some(chunk) = self.next().await? {
            charge.add(chunk.len())?;
            bytes.extend_from_slice(&chunk);
            if bytes.len() > bytes_max {
                return Ok((bytes, false));
            }
        }
        Ok((bytes, true))
    }
}

/// Read a whole body, of `bytes_max` at most; `what` it is says who refuses it.
///
/// # Errors
/// 413 if it is too large; as [`Arrival::read`].
pub(super) async fn read(
    body: &mut Incoming,
    activity: &Arc<Activity>,
    config: &HttpConfig,
    (what, bytes_max): (&str, usize),
) -> Result<(Vec<u8>, Charge)> {
    let too_large = || Error::too_large(format_args!("{what} has at most {bytes_max} bytes"));
    let mut arrival = Arrival::new(body, activity, config);
    if arrival.bytes_min() > bytes_max as u64 {
        return Err(too_large());
    }
    let mut charge = Charge::new(activity.account());
    match arrival.read(bytes_max, &mut charge).await? {
        (bytes, true) => Ok((bytes, charge)),
        (_, false) => Err(too_large()),
    }
}

/// Read and drop (some of) a body that is not wanted.
pub(super) async fn discard(mut body: Incoming) {
    let _ = timeout(DISCARD_TIMEOUT, async {
        let mut bytes = 0;
        while bytes < DISCARDED_BYTES_MAX
            && let Some(Ok(frame)) = body.frame().await
        {
            bytes += frame.data_ref().map_or(0, |chunk| chunk.len());
        }
    })
    .await;
}
