//! The three decoders: what a parsed document means (protocol page 01 §2.3 to §3.1).

mod chain;
mod key;

use std::collections::BTreeMap;
use std::sync::Arc;

use super::cast;
use super::class::{Class, Instance};
use super::op::{Body, OpDef};
use super::reference::{OpRef, Ref, Subject};
use super::state::{Map, State};
use crate::value::Value;
use crate::value::document::Document;
use crate::value::error::{Error, Result};
use crate::value::name::{Id, Link, Path};
use crate::value::native::NativeClass;

pub use chain::{chain_subject, each_stored_mutation, history, stored, stored_mutation, stored_mutations};
pub use key::key;

type Entries<'a> = &'a [(&'a str, Document<'a>)];

/// Decode a request body or an entry of a posted context.
///
/// # Errors
/// 400 that says what cannot be decoded.
pub fn state(document: Document) -> Result<State> {
    Decoder { scalar: false, is_schema: false }.decode(document)
}

/// Decode what stands under a reference, in an op definition, in a class or in a cluster configuration.
///
/// # Errors
/// 400 that says what cannot be decoded.
pub fn scalar(document: Document) -> Result<State> {
    Decoder::SCALAR.decode(document)
}

/// Decode the schema of a collection.
///
/// # Errors
/// 400 that says what cannot be decoded.
pub fn schema(document: Document) -> Result<State> {
    Decoder { scalar: true, is_schema: true }.decode(document)
}

#[derive(Clone, Copy)]
struct Decoder {
    /// Whether this is the scalar decoder: containers and collections are no literals there.
    scalar: bool,
    /// Whether this is a schema: there a class with nothing in it is the class, never an empty value of it.
    is_schema: bool,
}

impl Decoder {
    const SCALAR: Decoder = Decoder { scalar: true, is_schema: false };

    fn decode(self, document: Document) -> Result<State> {
        match document {
            Document::Null => Ok(State::NONE),
            Document::Number(number) => Ok(number.into()),
            Document::String(text) => Ok(State::string(text)),
            Document::Bytes(bytes) => Ok(Value::Bytes(bytes.into()).into()),
            Document::List(items) => {
                State::tuple(items.iter().map(|item| self.decode(*item)).collect::<Result<_>>()?)
            }
            Document::Map([]) => Ok(State::Map(Map::empty())),
            Document::Map(entries) => self.object(entries),
        }
    }

    fn object(self, entries: Entries) -> Result<State> {
        let (first, content) = entries[0];
        if !is_subject(first) {
            return self.map(entries);
        }
        if entries.len() > 1 {
            return Err(Error::bad_request(format_args!(
                "an object that starts with {first:?} is a reference or literal and has one entry, not {}",
                entries.len()
            )));
        }
        if let Some(class) = NativeClass::from_path(first)
            && let Some(literal) = self.literal(class, content)?
        {
            return Ok(literal);
        }
        reference(first, content).map_err(|error| error.context(format_args!("in {{{first:?}: …}}")))
    }

    fn map(self, entries: Entries) -> Result<State> {
        let mut items = Vec::with_capacity(entries.len());
        for (name, item) in entries {
            items.push((Id::parse(name)?, self.decode(*item)?));
        }
        Map::of_unsorted(items).map(State::Map)
    }

    /// The literal of a native class, if the content is one (page 01 §2.5).
    fn literal(self, class: NativeClass, content: Document) -> Result<Option<State>> {
        if matches!(content, Document::Map([]))
            || matches!(content, Document::List([])
                if self.is_schema || !class.is_castable() && class != NativeClass::OpPost)
        {
            // The class itself, as a link. In a state the empty wrapper is an empty container.
            return match class {
                NativeClass::Map | NativeClass::Tuple if !self.scalar => self.container(class, content),
                _ => Ok(Some(class.link().into())),
            };
        }
        match class {
            _ if class.is_castable() => typed_literal(class, content).map(Some),
            NativeClass::BTree | NativeClass::Table => collection(class, content),
            NativeClass::OpGet | NativeClass::OpPut | NativeClass::OpPost | NativeClass::OpDelete => {
                op_definition(class, content).map(|op| Some(State::Op(Arc::new(op))))
            }
            NativeClass::RefAfter
            | NativeClass::RefBefore
            | NativeClass::RefCase
            | NativeClass::RefId
            | NativeClass::RefIf
            | NativeClass::RefNew
            | NativeClass::RefWhile
            | NativeClass::RefWith
            | NativeClass::RefGet
            | NativeClass::RefPut
            | NativeClass::RefPost
            | NativeClass::RefDelete => flow(class, content).map(Some),
            NativeClass::Map | NativeClass::Tuple => self.container(class, content),
            NativeClass::State | NativeClass::Scalar | NativeClass::Value => {
                cast_of_reference(class, content)
            }
            NativeClass::ObjectClass => class_definition(content).map(Some),
            NativeClass::ObjectInstance if !self.scalar => instance(content).map(Some),
            NativeClass::ChainSync | NativeClass::ChainBlock if !self.scalar => {
                chain::chain(class, content).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// `/state/map` and `/state/tuple`: a wrapper in a state, a cast of its one item anywhere.
    fn container(self, class: NativeClass, content: Document) -> Result<Option<State>> {
        match content {
            Document::List([item]) => {
                let operand = self.decode(*item)?;
                if operand.has_ref() {
                    return Ok(Some(Ref::Cast(class, operand).into()));
                }
                // A tuple that holds one plain state is that state in a tuple.
                let wrapped = if class == NativeClass::Tuple {
                    State::tuple(vec![operand.clone()])?
                } else {
                    operand.clone()
                };
                Ok(Some(cast::cast(&operand, class).or_else(|_| cast::cast(&wrapped, class))?))
            }
            _ if self.scalar => cast_of_reference(class, content),
            _ => {
                let content = self.decode(content)?;
                if content.has_ref() {
                    return Ok(Some(Ref::Cast(class, content).into()));
                }
                cast::cast(&content, class).map(Some)
            }
        }
    }
}

/// Whether the first key of an object makes it a reference or literal: `$id`, a path or a link.
fn is_subject(text: &str) -> bool {
    text.starts_with('/') || text.starts_with('$') || text.contains("://")
}

/// A typed scalar literal: the content is cast into the class (page 01 §2.5). If the cast fails, the object is a
/// reference to the class, made of what is decoded already: to decode the content again at every level of nested
/// literals would take exponential time.
fn typed_literal(class: NativeClass, content: Document) -> Result<State> {
    let operand = Decoder::SCALAR.decode(content)?;
    if operand.has_ref() {
        return match (&operand, class) {
            // A prototype with attributes that are references.
            (State::Map(_), class) if !matches!(class, NativeClass::ScalarMap | NativeClass::ScalarTuple) => {
                class_reference(class, content, operand)
            }
            (State::Tuple(items), _) if items.len() == 1 && matches!(items[0], State::Ref(_)) => {
                Ok(Ref::Cast(class, items[0].clone()).into())
            }
            _ => Ok(Ref::Cast(class, operand).into()),
        };
    }
    match (cast::cast(&operand, class), content) {
        (Ok(literal), _) => Ok(literal),
        // What has the shape of arguments is the call of a class.
        (Err(_), Document::List([] | [_] | [_, _]) | Document::Map(_) | Document::Null) => {
            class_reference(class, content, operand)
        }
        (Err(cause), _) => Err(cause),
    }
}

/// `{"<class>": {"$x": []}}`: how the client casts a reference into a class that has no typed literals.
fn cast_of_reference(class: NativeClass, content: Document) -> Result<Option<State>> {
    match content {
        Document::Map([(subject, _)]) if is_subject(subject) => match Decoder::SCALAR.decode(content)? {
            operand @ State::Ref(_) => Ok(Some(Ref::Cast(class, operand).into())),
            other => class_reference(class, content, other).map(Some),
        },
        _ => Ok(None),
    }
}

/// A collection with a schema, and rows if there are any (page 02 §1.4): a reference, made anew wherever it is
/// resolved.
fn collection(class: NativeClass, content: Document) -> Result<Option<State>> {
    let on = Subject::Link(class.link());
    Ok(match content {
        Document::List([declared]) => Some(Ref::Op(OpRef::Get(on, schema(*declared)?)).into()),
        Document::List([declared, rows]) => {
            Some(Ref::Op(OpRef::Put(on, schema(*declared)?, scalar(*rows)?)).into())
        }
        _ => None,
    })
}

/// A reference to a class by the shape of its content, as in [`reference`], with the content decoded.
fn class_reference(class: NativeClass, content: Document, decoded: State) -> Result<State> {
    let on = Subject::Link(class.link());
    match (content, decoded) {
        (Document::List([]) | Document::Null, _) => Ok(class.link().into()),
        (Document::List([_]), State::Tuple(items)) => Ok(Ref::Op(OpRef::Get(on, items[0].clone())).into()),
        (Document::List([_, _]), State::Tuple(items)) => {
            Ok(Ref::Op(OpRef::Put(on, items[0].clone(), items[1].clone())).into())
        }
        (Document::Map(_), State::Map(parameters)) => Ok(Ref::Op(OpRef::Post(on, parameters)).into()),
        (content, _) => Err(arguments_error(content).context(format_args!("in {{{:?}: …}}", class.path()))),
    }
}

/// What to say of arguments that have no shape of arguments.
fn arguments_error(content: Document) -> Error {
    match content {
        Document::Map(_) => Error::bad_request("a reference alone is not an argument: put it in a list"),
        content => Error::bad_request(format_args!(
            "the arguments of a call are [], [key], [key, value] or an object of parameters, not {}",
            content.kind()
        )),
    }
}

fn name(document: Document) -> Result<Id> {
    match document {
        Document::String(text) => Id::parse(text.strip_prefix('$').unwrap_or(text)),
        Document::Map([(NAME_LITERAL, Document::String(text))]) => Id::parse(text),
        Document::Map([(text, Document::List([]) | Document::Map([]) | Document::Null)]) => {
            Id::parse(text.strip_prefix('$').unwrap_or(text))
        }
        other => Err(Error::bad_request(format_args!("{} is not a name", other.kind()))),
    }
}

const NAME_LITERAL: &str = "/state/scalar/value/id";

fn body(document: Document) -> Result<Body> {
    let Document::List(entries) = document else {
        return Err(Error::bad_request(format_args!(
            "the body of an op is a list of [name, state] pairs, not {}",
            document.kind()
        )));
    };
    entries
        .iter()
        .map(|entry| match entry {
            Document::List([entry_name, state]) => {
                let entry_name = name(*entry_name)?;
                let state = scalar(*state)
                    .map_err(|error| error.context(format_args!("in the entry {entry_name}")))?;
                Ok((entry_name, state))
            }
            other => Err(Error::bad_request(format_args!(
                "an entry in the body of an op is a [name, state] pair, not {}",
                other.kind()
            ))),
        })
        .collect()
}

fn op_definition(class: NativeClass, content: Document) -> Result<OpDef> {
    match (class, content) {
        (NativeClass::OpGet, Document::List([key, entries])) => {
            Ok(OpDef::Get { key: name(*key)?, body: body(*entries)? })
        }
        (NativeClass::OpDelete, Document::List([key, entries])) => {
            Ok(OpDef::Delete { key: name(*key)?, body: body(*entries)? })
        }
        (NativeClass::OpPut, Document::List([key, value, entries])) => {
            Ok(OpDef::Put { key: name(*key)?, value: name(*value)?, body: body(*entries)? })
        }
        (NativeClass::OpPost, entries @ Document::List(_)) => Ok(OpDef::Post { body: body(entries)? }),
        _ => Err(Error::bad_request(format_args!("this is not the definition of an {}", class.path()))),
    }
}

fn conditional(condition: Document) -> Result<State> {
    let condition = scalar(condition)?;
    if matches!(condition, State::Ref(_)) {
        Ok(condition)
    } else {
        Err(Error::bad_request(format_args!(
            "a condition must be a reference, not {}",
            cast::describe(&condition)
        )))
    }
}

fn scalars(document: Document) -> Result<Vec<State>> {
    match document {
        Document::List(items) => items.iter().map(|item| scalar(*item)).collect(),
        other => Err(Error::bad_request(format_args!("expected a list, not {}", other.kind()))),
    }
}

/// A reference written with its class (page 01 §3.1, §3.3).
fn flow(class: NativeClass, content: Document) -> Result<State> {
    let reference = match (class, content) {
        (NativeClass::RefIf, Document::List([condition, then, or_else])) => {
            Ref::If { condition: conditional(*condition)?, then: scalar(*then)?, or_else: scalar(*or_else)? }
        }
        (NativeClass::RefCase, Document::List([condition, switches, branches])) => {
            let (switches, branches) = (scalars(*switches)?, scalars(*branches)?);
            if branches.len() != switches.len() + 1 {
                return Err(Error::bad_request(format_args!(
                    "{} has {} switches, so it needs {} branches, not {}",
                    class.path(),
                    switches.len(),
                    switches.len() + 1,
                    branches.len()
                )));
            }
            Ref::Case { condition: conditional(*condition)?, switches, branches }
        }
        (NativeClass::RefWhile, Document::List([condition, step, state])) => {
            Ref::While { condition: scalar(*condition)?, step: scalar(*step)?, state: scalar(*state)? }
        }
        (NativeClass::RefWith, Document::List([Document::List(names), op])) => {
            Ref::With(names.iter().map(|captured| name(*captured)).collect::<Result<_>>()?, scalar(*op)?)
        }
        (NativeClass::RefAfter, Document::List([when, then])) => {
            Ref::After { when: scalar(*when)?, then: scalar(*then)? }
        }
        (NativeClass::RefBefore, Document::List([when, then])) => {
            Ref::Before { when: scalar(*when)?, then: scalar(*then)? }
        }
        (NativeClass::RefNew, Document::List([class, data])) => {
            Ref::New { class: scalar(*class)?, data: scalar(*data)? }
        }
        (NativeClass::RefId, content) => match content {
            Document::List([one]) => Ref::Id(name(*one)?),
            one => Ref::Id(name(one)?),
        },
        (NativeClass::RefGet, Document::List([on, key])) => {
            Ref::Op(OpRef::Get(subject_of(*on)?, scalar(*key)?))
        }
        (NativeClass::RefPut, Document::List([on, key, value])) => {
            Ref::Op(OpRef::Put(subject_of(*on)?, scalar(*key)?, scalar(*value)?))
        }
        (NativeClass::RefPost, Document::List([on, parameters])) => {
            Ref::Op(OpRef::Post(subject_of(*on)?, parameters_of(*parameters)?))
        }
        (NativeClass::RefDelete, Document::List([on, key])) => {
            Ref::Op(OpRef::Delete(subject_of(*on)?, scalar(*key)?))
        }
        _ => {
            return Err(Error::bad_request(format_args!(
                "these are not the arguments of {}: {}",
                class.path(),
                content.kind()
            )));
        }
    };
    Ok(reference.into())
}

fn parameters_of(document: Document) -> Result<Map> {
    match scalar(document)? {
        State::Map(parameters) => Ok(parameters),
        other => match cast::pairs(&other) {
            Some(pairs) => Map::new(pairs?.into_iter().collect()),
            None => Err(Error::bad_request("the parameters of a POST are an object or a list of pairs")),
        },
    }
}

/// `{"$x": []}`, `"$x"`, `"/a/b"` or `{"/a/b": {}}`.
fn subject_of(document: Document) -> Result<Subject> {
    match document {
        Document::String(text) => subject(text),
        Document::Map([(text, Document::List([]) | Document::Map([]) | Document::Null)]) => subject(text),
        other => Err(Error::bad_request(format_args!("{} is not the subject of a call", other.kind()))),
    }
}

/// Parse `$id`, `$id/path`, a path or a link.
///
/// # Errors
/// 400 that says what is wrong with it.
pub fn subject(text: &str) -> Result<Subject> {
    let Some(rest) = text.strip_prefix('$') else {
        return Link::parse(text).map(Subject::Link);
    };
    match rest.split_once('/') {
        None => Ok(Subject::Id(Id::parse(rest)?, Path::root())),
        Some((id, _)) => Ok(Subject::Id(Id::parse(id)?, Path::parse(&rest[id.len()..])?)),
    }
}

/// A reference by the shape of its content (page 01 §3.1).
fn reference(text: &str, content: Document) -> Result<State> {
    let on = subject(text)?;
    let class = matches!(&on, Subject::Link(link) if is_native(link));
    Ok(match (content, on) {
        (Document::List([]) | Document::Null, Subject::Id(id, path)) if path.is_root() => Ref::Id(id).into(),
        (Document::List([]) | Document::Null, on @ Subject::Id(..)) => {
            Ref::Op(OpRef::Get(on, State::NONE)).into()
        }
        (Document::List([]) | Document::Null, Subject::Link(link)) => link.into(),
        (Document::Map([]), Subject::Link(link)) if class => link.into(),
        (Document::Map([]), on) => Ref::Op(OpRef::Call(on)).into(),
        (Document::List([key]), on) => Ref::Op(OpRef::Get(on, scalar(*key)?)).into(),
        (Document::List([key, value]), on) => Ref::Op(OpRef::Put(on, scalar(*key)?, scalar(*value)?)).into(),
        (content @ Document::Map(entries), on) => match parameters(entries, &on, content)? {
            State::Map(parameters) => Ref::Op(OpRef::Post(on, parameters)).into(),
            _ => return Err(arguments_error(content)),
        },
        (content, _) => return Err(arguments_error(content)),
    })
}

/// The parameters of a POST; where one of them is the schema of a collection, it is read as such.
fn parameters(entries: Entries, on: &Subject, content: Document) -> Result<State> {
    let copies =
        [NativeClass::BTree, NativeClass::Table].map(|class| class.link().append(Id::literal("copy_from")));
    if !matches!(on, Subject::Link(link) if copies.contains(link))
        || entries.first().is_some_and(|(name, _)| is_subject(name))
    {
        return scalar(content);
    }
    let mut items = BTreeMap::new();
    for (name, item) in entries {
        let item = if *name == "schema" { schema(*item)? } else { scalar(*item)? };
        items.insert(Id::parse(name)?, item);
    }
    State::map(items)
}

fn is_native(link: &Link) -> bool {
    link.origin().is_none() && link.path().segments().first().is_some_and(|first| first.as_str() == "state")
}

/// `/state/object/class`: a prototype, alone, under its parent, or in a list (page 01 §6.1).
fn class_definition(content: Document) -> Result<State> {
    let (parent, prototype) = match content {
        Document::List([one]) => return class_definition(*one),
        Document::Map([(parent, prototype)]) if is_subject(parent) => {
            (Some(Link::parse(parent)?), *prototype)
        }
        prototype => (None, prototype),
    };
    match scalar(prototype)? {
        State::Map(prototype) => Ok(State::Class(Arc::new(Class::new(parent, prototype)?))),
        // `{"<class>": []}` is how a reply prints a class without members.
        other if other.is_none() => Ok(State::Class(Arc::new(Class::new(parent, Map::empty())?))),
        other => Err(Error::bad_request(format_args!(
            "a class is an object of methods and attributes, not {}",
            cast::describe(&other)
        ))),
    }
}

/// `/state/object/instance`: the data of an instance of an unknown class (page 01 §6.3).
fn instance(content: Document) -> Result<State> {
    let (parent, data) = match content {
        Document::Map([(parent, data)]) if is_subject(parent) => (Some(Link::parse(parent)?), *data),
        data => (None, data),
    };
    let class = Arc::new(Class::new(parent, Map::empty())?);
    Ok(State::Instance(Arc::new(Instance::new(class, state(data)?)?)))
}

/// The context that a posted body is, if it is one: a list whose every item is a two-item list with a name
/// first (page 01 §1.8).
pub fn context(body: &State) -> Option<Vec<(Id, State)>> {
    let State::Tuple(items) = body else {
        return None;
    };
    items
        .iter()
        .map(|item| match item {
            State::Tuple(pair) => match &**pair {
                [State::Value(Value::String(name)), state] => Some((Id::parse(name).ok()?, state.clone())),
                [State::Value(Value::Id(name)), state] => Some((name.clone(), state.clone())),
                [State::Ref(reference), state] => match &**reference {
                    Ref::Id(name) => Some((name.clone(), state.clone())),
                    _ => None,
                },
                _ => None,
            },
            _ => None,
        })
        .collect()
}
