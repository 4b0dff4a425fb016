//! One connection, and the watch over all of them: what is idle or slow is closed.
//!
//! There is one timer for all connections, not one for each request, and a connection that nobody tells
//! anything costs three readings of a clock that costs next to nothing.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::activity::{Activity, Command, OpenGuard};
use super::heads::Checked;
use super::server::Server;
use super::service;

/// How often connections are looked at.
const WATCH_INTERVAL: Duration = Duration::from_millis(250);

/// Who keeps the host waiting for so long makes room for those who come, if every place is taken.
const PATIENCE_MS: u64 = 40;

/// Who keeps the host waiting for so long goes even beyond that, so that the next ones need not look for room.
const FULL_TIMEOUT_MS: u64 = 1_000;

/// The part of all connections that goes at once in this way.
const ROOM_SHARE: usize = 64;

/// The part of the budget that is made free at once for want of memory.
const FREED_SHARE: usize = 8;

/// How many times 4 KiB are read from a connection that closes.
const LINGER_READS_MAX: usize = 256;

/// Close what is idle or slow, for ever.
pub(super) async fn watch(server: &Server) {
    loop {
        // Without a connection there is nothing to look at, and a host without clients does not wake up.
        server.connections.any().await;
        tokio::time::sleep(WATCH_INTERVAL).await;
        let expired = server.connections.expire(&server.config);
        server.metrics.connections_expired.fetch_add(expired, Ordering::Relaxed);
        if server.budget.was_short() {
            free(server);
        }
    }
}

/// Make room for a connection: close the one for which the host has waited longest. Whether one is closing.
pub(super) fn make_room(server: &Server) -> bool {
    let (open, is_closing) = server.connections.count();
    if is_closing {
        return true;
    }
    let mut owing = server.connections.owing(PATIENCE_MS);
    let at_once = owing.iter().take_while(|(owed_ms, _)| *owed_ms >= FULL_TIMEOUT_MS).count();
    owing.truncate(at_once.min(open / ROOM_SHARE).max(1));
    for (_, activity) in &owing {
        server.metrics.connections_displaced.fetch_add(1, Ordering::Relaxed);
        activity.command(Command::Close);
    }
    !owing.is_empty()
}

/// Make memory free that is held for clients who keep the host waiting.
fn free(server: &Server) {
    let mut left = server.budget.bytes_max() / FREED_SHARE;
    for (_, activity) in server.connections.owing(FULL_TIMEOUT_MS) {
        let held_bytes = activity.account().held_bytes();
        if held_bytes == 0 {
            continue;
        }
        server.metrics.connections_displaced.fetch_add(1, Ordering::Relaxed);
        activity.command(Command::Close);
        left = left.saturating_sub(held_bytes);
        if left == 0 {
            break;
        }
    }
}

/// Serve one connection to its end.
pub(super) async fn run(stream: TcpStream, server: Arc<Server>) {
    let activity = Arc::new(Activity::new(&server.budget));
    let _open = OpenGuard::new(&server.connections, &server.metrics, activity.clone());
    // The server may have begun to drain between the accept and the line above.
    if server.shutdown.is_cancelled() {
        return;
    }
    let io = Watched { stream: TokioIo::new(stream), activity: activity.clone() };
    let io = Checked::new(io, &server.config, server.metrics.clone());
    let service = service_fn(|request: hyper::Request<hyper::body::Incoming>| {
        let guard = activity.request(request.version() == hyper::Version::HTTP_2);
        let (server, activity) = (server.clone(), activity.clone());
        async move {
            let reply = service::respond(&server, &activity, request).await;
            drop(guard);
            Ok::<_, Infallible>(reply)
        }
    });
    let mut connection = pin!(server.builder.serve_connection(io, service));
    let mut is_draining = false;
    let ended = poll_fn(|context| {
        match activity.commanded(context) {
            Command::Close => return Poll::Ready(Ok(())),
            Command::Drain if !is_draining => {
                is_draining = true;
                connection.as_mut().graceful_shutdown();
            }
            _ => {}
        }
        connection.as_mut().poll(context)
    });
    if let Err(error) = ended.await {
        tracing::debug!("a connection ended: {error}");
    }
}

/// A socket whose activity is watched.
struct Watched {
    stream: TokioIo<TcpStream>,
    activity: Arc<Activity>,
}

impl Read for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if read.is_ready() {
            self.activity.bytes_read();
        }
        read
    }
}

impl Write for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        if written.is_ready() {
            self.activity.bytes_written();
        }
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        if written.is_ready() {
            self.activity.bytes_written();
        }
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_shutdown(context))?;
        // Closing a socket that holds unread bytes resets it, and the client may lose the answer that tells it
        // why: so read what has come, without waiting for more.
        let mut buffer = [MaybeUninit::uninit(); 4096];
        for _ in 0..LINGER_READS_MAX {
            let mut buffer = ReadBuf::uninit(&mut buffer);
            match Pin::new(&mut self.stream).poll_read(context, buffer.unfilled()) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {}
                _ => break,
            }
        }
        Poll::Ready(Ok(()))
    }
}
