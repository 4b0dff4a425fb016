//! From a request to its reply: the operators' endpoints here, everything else through the gateway.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use components::reference::Verb;
use components::{Error, Request, Result, State};
use hyper::Method;
use hyper::body::{Body, Incoming};
use hyper::http::request::Parts;

use super::reply::HttpReply;
use super::{INLINE_BYTES_MAX, Server, body, bulk, operator, reply, request};

/// Counts a request as long as it runs.
struct InFlight<'a>(&'a AtomicU64);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// Answer a request.
pub(super) async fn respond(server: &Server, request: hyper::Request<Incoming>) -> HttpReply {
    let (head, mut incoming) = request.into_parts();
    server.metrics.requests_in_flight.fetch_add(1, Relaxed);
    let in_flight = InFlight(&server.metrics.requests_in_flight);
    let reply = match operator::respond(server, &head).await {
        Some(reply) => reply,
        None => match call(server, &head, &mut incoming).await {
            Ok(reply) => reply,
            Err(error) => reply::error(&error),
        },
    };
    if !incoming.is_end_stream() {
        body::discard(incoming, &head.headers).await;
    }
    drop(in_flight);
    let body_bytes = reply.body().size_hint().exact().unwrap_or_default();
    server.metrics.count_reply(reply.status().as_u16(), usize::try_from(body_bytes).unwrap_or(usize::MAX));
    reply
}

/// Run a request as a transaction of the world.
async fn call(server: &Server, head: &Parts, incoming: &mut Incoming) -> Result<HttpReply> {
    let verb = request::verb(&head.method)?;
    request::authorize(&head.headers)?;
    let decoded = request::head(verb, &head.uri)?;
    // The body and what it decodes to are charged until the reply is made: until then the world may hold them.
    let (state, _charge) = match verb {
        Verb::Get | Verb::Delete => (State::NONE, None),
        Verb::Put | Verb::Post => {
            let rows = bulk::expected(server.gateway.catalog(), &head.headers, &decoded)?;
            let (bytes, mut charge) = body::read(incoming, &server.config, &server.budget).await?;
            server.metrics.request_body_bytes.fetch_add(bytes.len() as u64, Relaxed);
            let is_tbon = request::is_tbon(&head.headers);
            let size_bytes = rows.as_ref().map_or(bytes.len(), |rows| rows.size_bytes(bytes.len()));
            let (state, charge) = big(server, size_bytes, move || {
                let bytes = match rows {
                    Some(rows) => match rows.decode(bytes, &mut charge)? {
                        Ok(rows) => return Ok((rows, charge)),
                        Err(bytes) => bytes,
                    },
                    None => bytes,
                };
                let (state, decoded_bytes) = request::body(bytes, is_tbon)?;
                charge.add(usize::try_from(decoded_bytes).unwrap_or(usize::MAX))?;
                Ok::<_, Error>((state, charge))
            })
            .await??;
            (state, Some(charge))
        }
    };
    let request = Request {
        verb: decoded.verb,
        path: decoded.path,
        key: decoded.key,
        body: state,
        txn_id: decoded.txn_id,
    };
    let answer = server.gateway.call(request).await;
    let wants_tbon = reply::wants_tbon(&head.headers);
    let size_bytes = answer.as_ref().map_or(0, |state| usize::try_from(state.bytes()).unwrap_or(usize::MAX));
    let (bytes_max, budget) = (server.config.max_reply_bytes, server.budget.clone());
    big(server, size_bytes, move || reply::reply(answer, wants_tbon, bytes_max, &budget)).await
}

/// Do work that grows with `size_bytes`: here if that is little, else on a thread where it stalls nobody.
async fn big<T: Send + 'static>(
    server: &Server,
    size_bytes: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    if size_bytes <= INLINE_BYTES_MAX {
        return Ok(work());
    }
    let failed = |_| Error::internal("a large request could not be worked on");
    let _permit = server.big.acquire().await.map_err(|_| Error::unavailable("the host is going down"))?;
    tokio::task::spawn_blocking(work).await.map_err(failed)
}

/// Whether a request reads.
pub(super) fn is_get(head: &Parts) -> bool {
    head.method == Method::GET
}
