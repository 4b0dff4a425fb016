//! What operators ask: `/metrics`, `/healthz`, `/readyz`, `/version`, `/debug/world`, `/debug/backup`. The first segments of these
//! paths are reserved, so they hide no service.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use components::{Error, Result};
use hyper::http::request::Parts;
use hyper::{Method, StatusCode, Uri};
use serde_json::json;

use super::activity::Activity;
use super::budget::Charge;
use super::reply::{self, HttpReply};
use super::request::parameters;
use super::rows::Encoder;
use super::server::Server;
use super::stream::{Production, Streamed, produce};
use crate::gateway::InspectQuery;
use world::inspect::KINDS;

/// How many entities of a kind `/debug/world` shows unless told, and at most.
const ENTITIES_DEFAULT: usize = 100;
const ENTITIES_MAX: usize = 1000;

/// Whether a request is for an operators' endpoint.
pub(super) fn is_asked(head: &Parts) -> bool {
    matches!(
        head.uri.path(),
        "/metrics" | "/healthz" | "/readyz" | "/version" | "/debug/world" | "/debug/backup"
    )
}

/// The answer of an operators' endpoint ([`is_asked`]).
pub(super) async fn respond(server: &Arc<Server>, activity: &Arc<Activity>, head: &Parts) -> HttpReply {
    let path = head.uri.path();
    if head.method != Method::GET {
        return reply::error(&Error::method_not_allowed(format_args!("{path} answers GET only")));
    }
    match path {
        "/metrics" => {
            server.metrics.held_bytes.store(server.budget.held_bytes() as u64, Relaxed);
            reply::text(server.metrics.to_prometheus())
        }
        "/healthz" => reply::json(StatusCode::OK, json!({"status": "ok"}).to_string()),
        "/readyz" => ready(server),
        "/version" => {
            let version = json!({"name": "tinychain", "version": env!("CARGO_PKG_VERSION")});
            reply::json(StatusCode::OK, version.to_string())
        }
        "/debug/backup" => match back_up(server, activity).await {
            Ok(reply) => reply,
            Err(error) => reply::error(&error),
        },
        _ => match world(server, &head.uri).await {
            Ok(json) => reply::json(StatusCode::OK, json),
            Err(error) => reply::error(&error),
        },
    }
}

fn ready(server: &Server) -> HttpReply {
    if server.ready.load(Relaxed) && !server.shutdown.is_cancelled() && !server.metrics.poisoned.load(Relaxed)
    {
        // Whoever needs what is refused is told so; that is no reason to keep all others away.
        let refused = server.metrics.refused();
        let ready = match refused.is_empty() {
            true => json!({"status": "ready"}),
            false => json!({"status": "ready", "refused": refused}),
        };
        reply::json(StatusCode::OK, ready.to_string())
    } else {
        reply::json(StatusCode::SERVICE_UNAVAILABLE, json!({"status": "not ready"}).to_string())
    }
}

async fn world(server: &Server, uri: &Uri) -> Result<String> {
    let mut query = InspectQuery { limit: ENTITIES_DEFAULT, ..InspectQuery::default() };
    for (name, value) in parameters(uri) {
        let text = || String::from_utf8_lossy(&value).into_owned();
        let number = || {
            text().parse::<usize>().map_err(|_| {
                Error::bad_request(format_args!(
                    "{} is a number, not {:?}",
                    String::from_utf8_lossy(&name),
                    text()
                ))
            })
        };
        match &*name {
            b"kind" => query.kind = Some(text()).filter(|kind| !kind.is_empty()),
            b"filter" => query.filter = Some(text()).filter(|filter| !filter.is_empty()),
            b"offset" => query.offset = number()?,
            b"limit" => query.limit = number()?.min(ENTITIES_MAX),
            b"values" => query.has_values = truth(&value)?,
            // Nothing between two separators.
            b"" => {}
            other => {
                return Err(Error::bad_request(format_args!(
                    "there is no parameter {:?}, but kind, filter, offset, limit and values",
                    String::from_utf8_lossy(other)
                )));
            }
        }
    }
    if let Some(kind) = query.kind.as_deref().filter(|kind| !KINDS.contains(kind)) {
        return Err(Error::bad_request(format_args!(
            "there are no entities of the kind {kind:?}, but {}",
            KINDS.join(", ")
        )));
    }
    if query.has_values && !server.config.debug_values {
        return Err(Error::forbidden("values are shown if the host was started with --debug_values"));
    }
    Ok(server.gateway.inspect(query).await?.to_string())
}

fn truth(value: &[u8]) -> Result<bool> {
    match value {
        b"true" => Ok(true),
        b"false" | b"" => Ok(false),
        _ => Err(Error::bad_request("values is true or false")),
    }
}

/// Send a copy of all that is stored while it is read.
async fn back_up(server: &Arc<Server>, activity: &Arc<Activity>) -> Result<HttpReply> {
    let encoder = Encoder::backup(server.gateway.pages().clone())?;
    let mut charge = Charge::new(activity.account());
    charge.add(encoder.bytes())?;
    let content_type = encoder.content_type();
    let production = Box::new(Production { encoder, pin: None });
    let (production, first) = produce(server.clone(), production).await?;
    let first = first?.unwrap_or_default();
    Ok(reply::streamed(content_type, Streamed::new(server.clone(), activity, first, production, charge)))
}
