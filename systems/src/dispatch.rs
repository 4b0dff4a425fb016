//! Which handler gets a path (protocol page 01 §1.6, §1.7, page 04 §1.3).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use components::language::chain::{Chain, ChainAddress};
use components::language::collection::stream::StreamSource;
use components::language::reference::Verb;
use components::language::{cast, decode};
use components::value::name::Path;
use components::value::native::NativeClass;
use components::{Error, ErrorKind, Id, Link, Reply, Request, Result, State, Value};

use crate::collection;
use crate::futures::BoxFuture;
use crate::scalar::{Call, Frame, Interpreter, Scope, define_class, key_value};

/// The path of hypothetical transactions.
pub const HYPOTHETICAL: [&str; 2] = ["transact", "hypothetical"];

/// Whether a request is a hypothetical transaction: one that may not leave a trace.
pub fn is_hypothetical(request: &Request) -> bool {
    request.verb == Verb::Post && is_path(request.path.segments(), &HYPOTHETICAL)
}

fn is_path(path: &[Id], literal: &[&str]) -> bool {
    path.len() == literal.len() && path.iter().zip(literal).all(|(id, text)| id.as_str() == *text)
}

impl Interpreter {
    /// Answer a request.
    ///
    /// # Errors
    /// Those of what it runs.
    pub async fn serve(&self, request: &Request) -> Reply {
        let reply = self.answer(request).await?;
        self.settle_rows().await?;
        Ok(reply)
    }

    async fn answer(&self, request: &Request) -> Reply {
        self.step(0).await;
        let path = request.path.segments();
        if is_path(path, &HYPOTHETICAL) {
            return self.serve_hypothetical(request).await;
        }
        let key = State::Value(request.key.clone());
        let body = &request.body;
        let is_native = || NativeClass::from_path(&request.path.to_string()).is_some();
        let call = match request.verb {
            Verb::Get => Call::Get(key),
            Verb::Delete => Call::Delete(key),
            Verb::Put => Call::Put(key, self.resolve_body(body).await?),
            Verb::Post if is_native() => match body {
                State::Map(prototype) => {
                    return define_class(Some(request.path.clone().into()), prototype.clone());
                }
                other => {
                    return Err(Error::bad_request(format_args!(
                        "the prototype of a class is an object, not {}",
                        cast::describe(other)
                    )));
                }
            },
            Verb::Post if !self.is_served(path) => return Err(not_served(path)),
            Verb::Post => match self.resolve_body(body).await? {
                State::Map(parameters) => Call::Post(parameters),
                other => {
                    return Err(Error::bad_request(format_args!(
                        "the parameters of a POST are an object, not {}",
                        cast::describe(&other)
                    )));
                }
            },
        };
        let is_write = matches!(call, Call::Put(..) | Call::Delete(_));
        let reply = self.dispatch(path, call, 0).await?;
        if is_write { Ok(State::NONE) } else { self.shown(reply, request).await }
    }

    /// Whether anything could answer at a path, whatever it is called with.
    fn is_served(&self, path: &[Id]) -> bool {
        match path.first().map(Id::as_str) {
            None | Some("state" | "error") => true,
            Some(_) => self.catalog.find(path).is_some(),
        }
    }

    /// A body may hold references, to served classes for example.
    async fn resolve_body(&self, body: &State) -> Result<State> {
        let scope = Scope::new(&self.ledger, None);
        self.resolve(Frame { scope: &scope, entry: None, depth: 0 }, body.clone()).await
    }

    async fn serve_hypothetical(&self, request: &Request) -> Reply {
        match request.verb {
            Verb::Post => match decode::context(&request.body) {
                Some(entries) => {
                    let scope = Scope::new(&self.ledger, None);
                    let result = self.run_context(&scope, &entries, 0).await?;
                    self.shown(result, request).await
                }
                None => {
                    let data = self.resolve_body(&request.body).await?;
                    self.shown(data, request).await
                }
            },
            Verb::Get if request.key.is_none() => Ok(Value::Bytes(self.catalog.public_key.into()).into()),
            Verb::Get => Err(Error::not_found("a session of hypothetical transactions cannot be read")),
            Verb::Put => Err(peers_only()),
            Verb::Delete => Ok(State::NONE),
        }
    }

    /// A reply with the content of what it only names: chains of this host. Each is read once, however often it is
    /// named.
    async fn shown(&self, state: State, request: &Request) -> Result<State> {
        if request.rows_only && !is_rows(&state) {
            return Err(Error::bad_request(format_args!(
                "only a collection, a view or a stream of rows has the form that was asked for, not {}",
                cast::describe(&state)
            )));
        }
        self.step_through(&state).await;
        let state = self.materialized(state).await?;
        let mut names = BTreeSet::new();
        each_hosted_chain(&state, &mut |address| {
            names.insert(address.clone());
        });
        let mut contents = BTreeMap::new();
        for address in names {
            let content = self.hosted_chain_content(&address).await?;
            let content = self.materialized(content).await?;
            contents.insert(address, content);
        }
        Ok(with_contents(&state, &contents)?.unwrap_or(state))
    }

    /// Call what a link leads to.
    pub(crate) fn dispatch_link<'a>(
        &'a self,
        link: &'a Link,
        call: Call,
        depth: u32,
    ) -> BoxFuture<'a, Result<State>> {
        if !self.catalog.is_local(link) {
            let error =
                Error::bad_gateway(format_args!("cannot reach {link}: this host calls no other hosts yet"));
            return Box::pin(std::future::ready(Err(error)));
        }
        if matches!(call, Call::Either) && self.catalog.find(link.path().segments()).is_none() {
            // Nothing answers here: the link is data.
            return Box::pin(std::future::ready(Ok(link.clone().into())));
        }
        self.dispatch(link.path().segments(), call, depth)
    }

    /// Call what is at a path of this host.
    pub(crate) fn dispatch<'a>(
        &'a self,
        path: &'a [Id],
        call: Call,
        depth: u32,
    ) -> BoxFuture<'a, Result<State>> {
        Box::pin(async move {
            let Some(first) = path.first() else {
                return self.route_root(call);
            };
            match first.as_str() {
                "state" => match collection::class_of(path) {
                    Some((kind, rest)) => self.route_collection_class(kind, rest, call, depth).await,
                    None => static_state(path, call.or_get()),
                },
                "error" => raise(path, call.or_get()),
                _ => match self.catalog.find(path) {
                    Some((cluster, found, rest)) => {
                        self.route_cluster(cluster, found, rest, call, depth).await
                    }
                    None => Err(not_served(path)),
                },
            }
        })
    }

    fn route_root(&self, call: Call) -> Result<State> {
        match call.or_get() {
            Call::Get(key) if key.is_none() => Ok(Value::Bytes(self.catalog.public_key.into()).into()),
            Call::Get(_) => Err(Error::not_found("this host has one public key")),
            Call::Put(key, State::Value(Value::Link(_) | Value::None)) if key.is_none() => Ok(State::NONE),
            Call::Post(parameters) if parameters.is_empty() => Ok(State::NONE),
            call => Err(call.not_allowed("/")),
        }
    }
}

/// Whether a reply is nothing but rows.
fn is_rows(state: &State) -> bool {
    match state {
        State::Collection(_) | State::View(_) => true,
        State::Stream(stream) => matches!(stream.source(), StreamSource::Rows(_)),
        _ => false,
    }
}

fn not_served(path: &[Id]) -> Error {
    Error::not_found(format_args!("nothing is served at {}", Path::from(path)))
}

/// Messages about transactions that only their hosts may send (page 04 §6.6).
pub(crate) fn peers_only() -> Error {
    Error::unauthorized("only a host that takes part in the transaction may say this, with its token")
}

/// Call `visit` with every chain of this host that a state names.
fn each_hosted_chain(state: &State, visit: &mut impl FnMut(&Arc<ChainAddress>)) {
    match state {
        State::Chain(Chain::Hosted(_, address)) => visit(address),
        State::Tuple(items) => items.iter().for_each(|item| each_hosted_chain(item, visit)),
        State::Map(items) => items.values().for_each(|item| each_hosted_chain(item, visit)),
        _ => {}
    }
}

/// A state with the contents of the chains that it names, if it names any.
fn with_contents(state: &State, contents: &BTreeMap<Arc<ChainAddress>, State>) -> Result<Option<State>> {
    let shown = |item: &State| -> Result<(bool, State)> {
        let content = with_contents(item, contents)?;
        Ok((content.is_some(), content.unwrap_or_else(|| item.clone())))
    };
    match state {
        _ if contents.is_empty() => Ok(None),
        State::Chain(Chain::Hosted(_, address)) => Ok(contents.get(address).cloned()),
        State::Tuple(items) => {
            let (changed, items): (Vec<bool>, Vec<State>) =
                items.iter().map(shown).collect::<Result<Vec<_>>>()?.into_iter().unzip();
            if changed.contains(&true) { State::tuple(items).map(Some) } else { Ok(None) }
        }
        State::Map(items) => {
            let mut is_changed = false;
            let mut all = BTreeMap::new();
            for (name, item) in items.iter() {
                let (changed, item) = shown(item)?;
                is_changed |= changed;
                all.insert(name.clone(), item);
            }
            if is_changed { State::map(all).map(Some) } else { Ok(None) }
        }
        _ => Ok(None),
    }
}

/// Where the classes of tensors are, which this host does not have yet.
const TENSORS: &str = "/state/collection/tensor";

/// What is under `/state` (page 01 §1.7).
fn static_state(path: &[Id], call: Call) -> Result<State> {
    let text = Path::text_of(path);
    let class = NativeClass::from_path(&text);
    let call = match (call, class) {
        (Call::Post(prototype), Some(class)) => {
            return define_class(Some(Link::parse(class.path())?), prototype);
        }
        (call, _) => call,
    };
    let not_found = || Error::not_found(format_args!("nothing is served at {text}"));
    if text.starts_with(TENSORS) {
        return Err(Error::not_implemented(format_args!("{text} is not supported yet")));
    }
    let value = |class: NativeClass| format!("{}/uuid", class.path());
    match (class, call) {
        (Some(NativeClass::State | NativeClass::Scalar | NativeClass::Value), Call::Get(key)) => Ok(key),
        (Some(class @ (NativeClass::Map | NativeClass::Tuple)), Call::Get(key)) => cast::cast(&key, class),
        (Some(class), Call::Get(key)) if class.is_castable() && !is_scalar_container(class) => {
            cast::cast(&key, class)
        }
        (Some(class), Call::Get(_)) if is_scalar_container(class) || is_op_or_ref(&text) => {
            Err(Error::bad_request(format_args!("a key cannot be cast into {text}")))
        }
        (Some(_), Call::Get(_)) => Err(not_found()),
        (Some(_), call) => Err(call.not_allowed(text)),
        (None, Call::Get(key)) if text.starts_with("/state/map/") => cast::cast(&key, NativeClass::Map),
        (None, Call::Get(key)) if text.starts_with("/state/tuple/") => cast::cast(&key, NativeClass::Tuple),
        (None, Call::Get(key)) if text == value(NativeClass::Bytes) => {
            Ok(Value::Bytes(uuid(&key)?.to_vec().into()).into())
        }
        (None, Call::Get(key)) if text == value(NativeClass::Id) => {
            Ok(Value::Id(Id::parse(&uuid_text(uuid(&key)?))?).into())
        }
        (None, Call::Get(key)) if text == value(NativeClass::String) => {
            Ok(State::string(uuid_text(uuid(&key)?)))
        }
        (None, _) => Err(not_found()),
    }
}

fn is_scalar_container(class: NativeClass) -> bool {
    matches!(class, NativeClass::ScalarMap | NativeClass::ScalarTuple)
}

/// Whether a class is an op definition or a reference: those have literals, but there is no cast into them.
fn is_op_or_ref(class: &str) -> bool {
    [NativeClass::Op, NativeClass::Ref]
        .iter()
        .any(|base| class.strip_prefix(base.path()).is_some_and(|rest| rest.starts_with('/')))
}

/// A UUID from its text or its 16 bytes (page 01 §1.7).
fn uuid(key: &State) -> Result<[u8; 16]> {
    let invalid = || Error::bad_request(format_args!("{} is not a UUID", cast::describe(key)));
    let text = match key_value(key)? {
        Value::Bytes(bytes) => return (&*bytes).try_into().map_err(|_| invalid()),
        Value::String(text) => text.to_string(),
        Value::Id(id) => id.to_string(),
        _ => return Err(invalid()),
    };
    let groups: Vec<usize> = text.split('-').map(str::len).collect();
    if groups != [8, 4, 4, 4, 12] && groups != [32] {
        return Err(invalid());
    }
    let digits: String = text.split('-').collect();
    let mut bytes = [0; 16];
    for (byte, pair) in bytes.iter_mut().zip(digits.as_bytes().chunks(2)) {
        let pair = std::str::from_utf8(pair).map_err(|_| invalid())?;
        *byte = u8::from_str_radix(pair, 16).map_err(|_| invalid())?;
    }
    Ok(bytes)
}

fn uuid_text(bytes: [u8; 16]) -> String {
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-")
}

/// `/error/<name>`: the error of that name (page 01 §1.7).
fn raise(path: &[Id], call: Call) -> Result<State> {
    let kind = match path {
        [_, name] => ErrorKind::from_name(name.as_str()),
        _ => None,
    };
    let kind =
        kind.ok_or_else(|| Error::not_found(format_args!("there is no error {}", Path::from(path))))?;
    match call {
        Call::Get(key) => match key_value(&key)? {
            message @ (Value::String(_) | Value::Number(_) | Value::Id(_) | Value::Link(_)) => {
                Err(Error::new(kind, message))
            }
            other => Err(Error::bad_request(format_args!("{other} is not the message of an error"))),
        },
        call => Err(call.not_allowed(Path::from(path))),
    }
}
