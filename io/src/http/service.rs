//! From a request to its reply: the operators' endpoints here, everything else through the gateway.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use components::language::reference::Verb;
use components::{Error, Request, Result, State};
use hyper::body::{Body, Incoming};
use hyper::header::EXPECT;
use hyper::http::request::Parts;
use hyper::{Method, StatusCode};
use tokio::sync::mpsc::channel;
use tracing::Level;

use super::activity::Activity;
use super::body::Arrival;
use super::budget::Charge;
use super::bulk::{Expected, Piece, Turn};
use super::limits::INLINE_BYTES_MAX;
use super::media::RowsForm;
use super::reply::HttpReply;
use super::request::{Head, MediaType};
use super::rows::{Encoder, STREAM_BYTES};
use super::server::Server;
use super::stream::{Production, Streamed, produce};
use super::{body, bulk, operator, reply, request, rows};
use crate::gateway::{Answer, Pin};
use crate::workspace::Workspace;

/// How many pieces of a body of rows wait to be decoded at most.
const PIECES_MAX: usize = 8;

/// Counts a request as long as it runs.
struct InFlight<'a>(&'a AtomicU64);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// Answer a request.
pub(super) async fn respond(
    server: &Arc<Server>,
    activity: &Arc<Activity>,
    request: hyper::Request<Incoming>,
) -> HttpReply {
    let (head, mut incoming) = request.into_parts();
    // A client that waits for a go-ahead sends nothing, unless its body is asked for.
    let is_expecting = head.headers.contains_key(EXPECT);
    server.metrics.requests_in_flight.fetch_add(1, Relaxed);
    let in_flight = InFlight(&server.metrics.requests_in_flight);
    let is_head = head.method == Method::HEAD;
    let shown = tracing::enabled!(Level::DEBUG).then(|| format!("{} {}", head.method, head.uri));
    let reply = match answered_at_once(server, activity, &head).await {
        Some(reply) => reply,
        None => {
            let wanted = Wanted::by(&head, server, activity);
            // What is not held while the world works need not be fetched into the cache again.
            drop(head);
            let reply = match wanted {
                Ok(wanted) => call(server, activity, wanted, &mut incoming).await,
                Err(error) => Err(error),
            };
            reply.unwrap_or_else(|error| reply::error(&error))
        }
    };
    if let Some(request) = shown
        && let Some(reply::Refusal(error)) = reply.extensions().get()
    {
        tracing::debug!("{request} is answered {}: {error}", error.kind().status());
    }
    if !incoming.is_end_stream() && !is_expecting {
        Box::pin(body::discard(incoming)).await;
    }
    drop(in_flight);
    let body_bytes = reply.body().size_hint().exact().unwrap_or_default();
    server.metrics.count_reply(reply.status().as_u16(), usize::try_from(body_bytes).unwrap_or(usize::MAX));
    // On HTTP/2 nobody else leaves the body out.
    let reply = if is_head { reply::without_body(reply) } else { reply };
    reply.map(|body| body.on(activity))
}

/// The answer to a request that is refused for its head, or that an operator asks.
async fn answered_at_once(server: &Arc<Server>, activity: &Arc<Activity>, head: &Parts) -> Option<HttpReply> {
    match request::check_host(head.version, &head.headers) {
        Ok(()) if operator::is_asked(head) => Some(Box::pin(operator::respond(server, activity, head)).await),
        Ok(()) => None,
        Err(error) => Some(reply::error(&error)),
    }
}

/// What a request wants, by its head.
struct Wanted {
    head: Head,
    /// What the body is said to be.
    media_type: MediaType,
    /// The rows that the body holds, if it holds rows.
    rows: Option<Expected>,
    wanted_rows: Option<RowsForm>,
    wants_tbon: bool,
}

impl Wanted {
    fn by(head: &Parts, server: &Server, activity: &Activity) -> Result<Self> {
        let verb = request::verb(&head.method)?;
        let headers = &head.headers;
        request::authorize(headers)?;
        let decoded = request::head(verb, &head.uri, activity.last_path())?;
        let (media_type, rows) = match verb {
            // What a GET or DELETE has as its body is not looked at (page 01 §1.1).
            Verb::Get | Verb::Delete => (MediaType::Json, None),
            Verb::Put | Verb::Post => {
                let media_type = MediaType::of(headers)?;
                (media_type, bulk::expected(server.gateway.catalog(), media_type, &decoded)?)
            }
        };
        // A write has nothing to show in any form.
        let wanted_rows = match verb {
            Verb::Get | Verb::Post => reply::wanted_rows(headers),
            Verb::Put | Verb::Delete => None,
        };
        let wants_tbon = reply::wants_tbon(headers);
        Ok(Self { head: decoded, media_type, rows, wanted_rows, wants_tbon })
    }
}

/// The body of a request, decoded, and what it is charged.
async fn received(
    server: &Arc<Server>,
    activity: &Arc<Activity>,
    head: &Head,
    media_type: MediaType,
    rows: Option<Expected>,
    incoming: &mut Incoming,
) -> Result<(State, Charge)> {
    let workspace = server.gateway.workspace();
    let (bytes, rows, mut charge) = match (rows, workspace) {
        (Some(rows), Some(workspace)) if rows.is_unbounded() => {
            match Box::pin(arriving(server, activity, workspace, rows, incoming)).await? {
                Arrived::Whole(bytes, rows, charge) => (bytes, Some(rows), charge),
                Arrived::Decoded(state, charge) => return Ok((state, charge)),
            }
        }
        (rows, _) => {
            let limit = body_limit(server, head);
            let (bytes, charge) = body::read(incoming, activity, &server.config, limit).await?;
            let rows = match media_type {
                MediaType::Json => bulk::expected_json(server.gateway.catalog(), head, &bytes),
                _ => rows,
            };
            (bytes, rows, charge)
        }
    };
    server.metrics.request_body_bytes.fetch_add(bytes.len() as u64, Relaxed);
    let is_tbon = media_type == MediaType::Tbon;
    let of_state = if is_tbon { bulk::expected_state(server.gateway.catalog(), head) } else { None };
    let size_bytes = rows.as_ref().map_or(bytes.len(), |rows| rows.size_bytes(bytes.len()));
    big(server, size_bytes, move || {
        let bytes = match rows {
            Some(rows) => match rows.decode(bytes, &mut charge)? {
                Ok(rows) => return Ok((rows, charge)),
                Err(bytes) => bytes,
            },
            None => bytes,
        };
        let state = request::body(bytes, is_tbon, &mut charge)?;
        let state = match of_state {
            Some(schema) => bulk::rows_of_state(schema, state)?,
            None => state,
        };
        Ok::<_, Error>((state, charge))
    })
    .await?
}

/// Run a request as a transaction of the world.
async fn call(
    server: &Arc<Server>,
    activity: &Arc<Activity>,
    wanted: Wanted,
    incoming: &mut Incoming,
) -> Result<HttpReply> {
    let Wanted { head, media_type, rows, wanted_rows, wants_tbon } = wanted;
    // The body and what it decodes to are charged until the reply is made: until then the world may hold them.
    let (state, charge) = match head.verb {
        Verb::Get | Verb::Delete => (State::NONE, Charge::new(activity.account())),
        Verb::Put | Verb::Post => received(server, activity, &head, media_type, rows, incoming).await?,
    };
    let verb = head.verb;
    let request = Request {
        verb,
        path: head.path,
        key: head.key,
        body: state,
        txn_id: head.txn_id,
        rows_only: wanted_rows.is_some(),
    };
    let Answer { reply: answer, pin, rows_written } = server.gateway.call(request).await;
    // A PUT or DELETE is a write, whatever it came to.
    let rows_written = match verb {
        Verb::Put | Verb::Delete if answer.is_ok() => Some(rows_written.unwrap_or(0)),
        _ => rows_written,
    };
    let mut reply = if let Ok(state) = &answer
        && (state.is_streamed() || wanted_rows.is_some())
    {
        Box::pin(stream(server, activity, (state.clone(), pin), charge, wanted_rows, wants_tbon)).await?
    } else {
        let size_bytes =
            answer.as_ref().map_or(0, |state| usize::try_from(state.bytes()).unwrap_or(usize::MAX));
        let bytes_max = server.config.max_reply_bytes;
        big(server, size_bytes, move || reply::reply(answer, wants_tbon, bytes_max, charge)).await?
    };
    if let Some(rows) = rows_written {
        reply.headers_mut().insert(reply::ROWS, rows.into());
    }
    Ok(reply)
}

/// How many bytes the body of a request has at most, and what it is.
fn body_limit(server: &Server, head: &Head) -> (&'static str, usize) {
    let bytes_max = server.config.max_body_bytes;
    match server.gateway.workspace().map(|workspace| workspace.recorded_bytes()) {
        Some(recorded) if recorded < bytes_max && bulk::is_recorded(server.gateway.catalog(), head) => {
            ("rows that a block chain records, with this --cache_size: one request", recorded)
        }
        _ => ("the body of a request", bytes_max),
    }
}

/// A body of rows.
enum Arrived {
    /// It is small, and yet to be decoded.
    Whole(Vec<u8>, Expected, Charge),
    /// It was decoded while it arrived.
    Decoded(State, Charge),
}

/// Read rows that may be more than fit in memory.
async fn arriving(
    server: &Arc<Server>,
    activity: &Arc<Activity>,
    workspace: &Arc<Workspace>,
    rows: Expected,
    incoming: &mut Incoming,
) -> Result<Arrived> {
    let config = &server.config;
    let too_large =
        || Error::too_large(format_args!("rows have at most {} bytes in one request", config.max_rows_bytes));
    let mut arrival = Arrival::new(incoming, activity, config);
    if arrival.bytes_min() > config.max_rows_bytes {
        return Err(too_large());
    }
    let account = activity.account().of_request();
    let mut held = Charge::new(&account);
    let memory_bytes = workspace.memory_bytes().min(config.max_body_bytes);
    let (first, is_whole) = arrival.read(memory_bytes, &mut held).await?;
    let mut arrived_bytes = first.len() as u64;
    if arrived_bytes > config.max_rows_bytes {
        return Err(too_large());
    }
    if is_whole {
        return Ok(Arrived::Whole(first, rows, held));
    }
    let going_down = |_| Error::unavailable("the host is going down");
    if server.rows_open.available_permits() == 0 {
        // Those that keep the host waiting make room.
        server.budget.set_short();
    }
    let _open = server.rows_open.acquire().await.map_err(going_down)?;
    let turn = Turn::take(server.rows_arriving.clone()).await.map_err(going_down)?;
    arrival.resume();
    let (pieces, receiver) = channel(PIECES_MAX);
    let (workspace, piece_bytes_max) = (workspace.clone(), config.max_body_bytes);
    let mut charge = Charge::new(&account);
    let decoding = tokio::task::spawn_blocking(move || {
        let charges = (&mut charge, &mut held);
        let state =
            rows.decode_arriving(first, (receiver, Some(turn)), &workspace, piece_bytes_max, charges)?;
        Ok((state, charge))
    });
    let feeding = async {
        loop {
            let bytes = tokio::select! {
                bytes = arrival.next() => bytes?,
                // It reads no further when it knows what is wrong.
                () = pieces.closed() => return Ok(()),
            };
            let Some(bytes) = bytes else { break };
            arrived_bytes += bytes.len() as u64;
            server.metrics.request_body_bytes.fetch_add(bytes.len() as u64, Relaxed);
            if arrived_bytes > config.max_rows_bytes {
                return Err(too_large());
            }
            arrival.extend(bytes.len());
            if pieces.send(Piece::Bytes(bytes)).await.is_err() {
                return Ok(());
            }
        }
        let _ = pieces.send(Piece::End).await;
        Ok(())
    };
    let fed = feeding.await;
    drop(pieces);
    let decoded = decoding.await.map_err(|_| Error::internal("rows could not be decoded"))?;
    fed?;
    let (state, charge) = decoded?;
    Ok(Arrived::Decoded(state, charge))
}

/// Send a reply while it is made, from its first chunk on; as a whole if it has just one.
async fn stream(
    server: &Arc<Server>,
    activity: &Arc<Activity>,
    (state, pin): (State, Option<Pin>),
    mut charge: Charge,
    wanted_rows: Option<RowsForm>,
    wants_tbon: bool,
) -> Result<HttpReply> {
    charge.add(STREAM_BYTES)?;
    let pages = server.gateway.pages().clone();
    let bytes_max = server.config.max_reply_bytes;
    if wants_tbon && wanted_rows.is_none() {
        let whole = move || {
            let _pin = pin;
            let state = rows::read(&state, &pages, bytes_max)?;
            Ok(reply::reply(Ok(state), true, bytes_max, charge))
        };
        return big(server, usize::MAX, whole).await?;
    }
    let begin = move || match wanted_rows {
        Some(form) => Encoder::rows(&state, form, pages),
        None => Encoder::json(&state, bytes_max, pages),
    };
    let encoder = big(server, usize::MAX, begin).await??;
    charge.add(encoder.bytes())?;
    charge.keep(STREAM_BYTES + encoder.bytes());
    let content_type = encoder.content_type();
    let production = Box::new(Production { encoder, pin });
    let (production, first) = produce(server.clone(), production).await?;
    let first = first?.unwrap_or_default();
    if production.encoder.is_done() {
        return Ok(reply::response(StatusCode::OK, content_type, first));
    }
    Ok(reply::streamed(content_type, Streamed::new(server.clone(), activity, first, production, charge)))
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
