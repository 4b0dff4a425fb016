//! The interpreter of the language (protocol page 01 §3, §4): programs that read like ordinary code, and that the
//! world polls.

mod containers;
mod objects;
mod ops;
mod references;
mod scope;
mod strings;
mod values;

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use components::hosting::cluster::Catalog;
use components::language::reference::Verb;
use components::transaction::ledger::Ledger;
use components::{Error, Map, Result, State, Value};

use crate::futures::BoxFuture;
use crate::limits::JobLimits;

pub(crate) use containers::{parameter, parameters};
pub(crate) use objects::define_class;
pub use scope::Scope;
pub(crate) use values::no_argument;

/// How deep references, calls and containers may nest in one another while a program runs. Deeper is a 400.
pub const RESOLVE_DEPTH_MAX: u32 = 2_000;

/// A program spends one fuel on a step, and one on this many items that the step looks at or copies.
pub(crate) const ITEMS_PER_FUEL: usize = 16;

/// As many bytes of text count as one item.
const BYTES_PER_ITEM: usize = 64;

/// A call of something: its verb and its arguments, resolved.
#[derive(Clone, Debug)]
pub enum Call {
    /// GET with a key.
    Get(State),
    /// PUT with a key and a value.
    Put(State, State),
    /// POST with parameters.
    Post(Map),
    /// DELETE with a key.
    Delete(State),
    /// `{}`: a POST without parameters, or a GET without key; what is called decides (page 01 §3.1).
    Either,
}

impl Call {
    /// The name of the verb, for messages.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Get(_) => Verb::Get.name(),
            Self::Put(..) => Verb::Put.name(),
            Self::Post(_) => Verb::Post.name(),
            Self::Delete(_) => Verb::Delete.name(),
            Self::Either => "GET or POST",
        }
    }

    /// The same call of something that answers GET but not POST.
    pub fn or_get(self) -> Self {
        match self {
            Self::Either => Self::Get(State::NONE),
            call => call,
        }
    }

    /// The same call of something that answers POST.
    pub fn or_post(self) -> Self {
        match self {
            Self::Either => Self::Post(Map::empty()),
            call => call,
        }
    }

    /// 405 for this call of `what`.
    pub fn not_allowed(&self, what: impl std::fmt::Display) -> Error {
        Error::method_not_allowed(format_args!("{what} does not answer {}", self.verb()))
    }
}

/// A resolved key as the value that it must be (page 01 §3.4).
///
/// # Errors
/// 400 if it is not a value.
pub fn key_value(key: &State) -> Result<Value> {
    key.to_value().ok_or_else(|| {
        Error::bad_request(format_args!("a key must be a value, not a {}", key.class().path()))
    })
}

/// Runs programs of one transaction.
#[derive(Clone, Debug)]
pub struct Interpreter {
    /// What this host serves.
    pub catalog: Arc<Catalog>,
    /// The ledger of the transaction.
    pub ledger: Arc<Ledger>,
    /// What is left to jobs.
    pub jobs: JobLimits,
}

/// Where in a program a state is resolved.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// The names that are known there.
    pub scope: &'a Scope<'a>,
    /// The entry that is being resolved, if it is one.
    pub entry: Option<&'a components::Id>,
    /// Levels of nesting.
    pub depth: u32,
}

impl<'a> Frame<'a> {
    /// The same place, one level deeper.
    ///
    /// # Errors
    /// 400 if that is too deep.
    pub fn deeper(self) -> Result<Self> {
        Ok(Self { depth: deeper(self.depth)?, ..self })
    }
}

/// One level deeper.
///
/// # Errors
/// 400 if that is too deep.
pub fn deeper(depth: u32) -> Result<u32> {
    if depth >= RESOLVE_DEPTH_MAX {
        return Err(Error::bad_request(format_args!(
            "calls and references nest more than {RESOLVE_DEPTH_MAX} levels deep"
        )));
    }
    Ok(depth + 1)
}

impl Interpreter {
    /// Spend fuel for a step that handles this many items, and yield to other transactions if none is left.
    pub async fn step(&self, items: usize) {
        let fuel = 1 + (items / ITEMS_PER_FUEL) as u64;
        poll_fn(|_| if self.ledger.spend(fuel) { Poll::Ready(()) } else { Poll::Pending }).await;
    }

    /// Spend fuel for a step that looks at everything in a state.
    pub async fn step_through(&self, state: &State) {
        self.step(usize::try_from(state.bytes()).unwrap_or(usize::MAX) / BYTES_PER_ITEM).await;
    }

    /// Call a state, or what is at a path below it (page 01 §5, §6).
    pub fn route<'a>(
        &'a self,
        subject: State,
        path: &'a [components::Id],
        call: Call,
        depth: u32,
    ) -> BoxFuture<'a, Result<State>> {
        Box::pin(async move {
            let depth = deeper(depth)?;
            match &subject {
                State::Instance(instance) => self.route_instance(instance, path, call, depth).await,
                State::Class(class) => self.route_class(class, path, call, depth).await,
                State::Op(op) if path.is_empty() => self.call_op(op, None, None, call, depth).await,
                State::Closure(closure) if path.is_empty() => self.call_closure(closure, call, depth).await,
                State::Map(map) => self.route_map(map, path, call, depth).await,
                State::Tuple(_) | State::Value(Value::Tuple(_)) => {
                    if let State::Value(Value::Tuple(items)) = &subject {
                        // Its items become states.
                        self.step(items.len()).await;
                    }
                    let tuple = subject.to_tuple().expect("a tuple");
                    self.route_tuple(&subject, &tuple, path, call, depth).await
                }
                State::Value(value) => self.route_value(value, path, call).await,
                State::Range(bounds) => match path.split_first() {
                    Some((first, rest)) if first.as_str() == "start" => {
                        self.route(bounds[0].clone(), rest, call, depth).await
                    }
                    Some((first, rest)) if first.as_str() == "end" => {
                        self.route(bounds[1].clone(), rest, call, depth).await
                    }
                    _ => common(&subject, path, call),
                },
                State::Cluster(cluster) => {
                    let path = cluster.join(path);
                    self.dispatch(path.segments(), call, depth).await
                }
                State::Chain(chain) => self.route_chain(chain, path, call, depth).await,
                State::Collection(_) | State::View(_) => {
                    self.route_collection(&subject, path, call, depth).await
                }
                State::Stream(stream) => self.route_stream(stream, path, call, depth).await,
                State::Row(row) => self.route_row(row, path, call, depth).await,
                State::Op(_)
                | State::Closure(_)
                | State::Ref(_)
                | State::Content(_)
                | State::Snapshot(_)
                | State::Bulk(_) => common(&subject, path, call),
            }
        })
    }
}

/// What every state answers (page 01 §5.1).
pub(crate) fn common(subject: &State, path: &[components::Id], call: Call) -> Result<State> {
    match (path, call.or_get()) {
        ([], Call::Get(key)) if key.is_none() => Ok(subject.clone()),
        ([], Call::Get(key)) => Err(Error::not_found(format_args!(
            "a {} has no member {}",
            subject.class().path(),
            components::language::cast::describe(&key)
        ))),
        ([], call) => Err(call.not_allowed(format_args!("a {}", subject.class().path()))),
        ([name], call) => match (name.as_str(), call) {
            ("class", Call::Get(_)) => Ok(components::Link::parse(subject.class().path())?.into()),
            ("class", Call::Post(prototype)) => objects::define(subject.class().path(), prototype),
            ("is_none", Call::Get(key)) if key.is_none() => Ok(subject.is_none().into()),
            ("is_none", Call::Get(_)) => Err(Error::not_found("is_none takes no key")),
            ("class" | "is_none", call) => Err(call.not_allowed(name)),
            _ => Err(no_member(subject, path)),
        },
        (_, _) => Err(no_member(subject, path)),
    }
}

/// 404 for a path below a state.
pub(crate) fn no_member(subject: &State, path: &[components::Id]) -> Error {
    let path = components::Path::from(path);
    Error::not_found(format_args!("a {} has nothing at {path}", subject.class().path()))
}
