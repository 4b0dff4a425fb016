//! How references are resolved (protocol page 01 §3.4).

use std::collections::BTreeMap;

use components::language::cast;
use components::language::chain::ChainKind;
use components::language::class::{Class, Instance};
use components::language::op::Closure;
use components::language::reference::{OpRef, Ref, Subject};
use components::rows::schema::CollectionKind;
use components::value::native::NativeClass;
use components::{Error, ErrorKind, Id, Link, Map, Number, Result, State, Value};

use super::scope::SELF;
use super::{Call, Frame, Interpreter, objects};
use crate::futures::{BoxFuture, join};

use std::sync::Arc;

/// A state whose parts are resolved, but for the writes in it: those happen in order, once everything that they
/// write is known (protocol page 00).
enum Prepared {
    Done(State),
    /// What is called, its arguments, and those as they were written.
    Write(Subject, Call, Vec<State>),
    Tuple(Vec<Prepared>),
    Map(Vec<(Id, Prepared)>),
}

impl Interpreter {
    /// Resolve a state completely.
    pub fn resolve<'a>(&'a self, frame: Frame<'a>, state: State) -> BoxFuture<'a, Result<State>> {
        if !state.has_ref() {
            return Box::pin(std::future::ready(Ok(state)));
        }
        Box::pin(async move {
            let frame = frame.deeper()?;
            match self.prepare(frame, state).await? {
                Prepared::Done(state) => Ok(state),
                prepared => self.perform(frame, prepared).await,
            }
        })
    }

    fn prepare<'a>(&'a self, frame: Frame<'a>, state: State) -> BoxFuture<'a, Result<Prepared>> {
        Box::pin(async move {
            if !state.has_ref() {
                return Ok(Prepared::Done(state));
            }
            let frame = frame.deeper()?;
            match &state {
                State::Tuple(items) => {
                    self.step(items.len()).await;
                    let items = join(items.iter().map(|item| self.prepare(frame, item.clone()))).await?;
                    Ok(Prepared::Tuple(items))
                }
                State::Map(items) => {
                    self.step(items.len()).await;
                    let values = join(items.values().map(|item| self.prepare(frame, item.clone()))).await?;
                    Ok(Prepared::Map(items.keys().cloned().zip(values).collect()))
                }
                State::Ref(reference) => {
                    self.step(0).await;
                    self.prepare_reference(frame, reference).await
                }
                State::Instance(instance) => {
                    let data = self.resolve(frame, instance.data().clone()).await?;
                    let resolved = Instance::new(instance.class().clone(), data)?;
                    Ok(Prepared::Done(State::Instance(Arc::new(resolved))))
                }
                _ => Ok(Prepared::Done(state)),
            }
        })
    }

    fn perform<'a>(&'a self, frame: Frame<'a>, prepared: Prepared) -> BoxFuture<'a, Result<State>> {
        Box::pin(async move {
            match prepared {
                Prepared::Done(state) => Ok(state),
                Prepared::Write(subject, call, written) => {
                    let written: Vec<&State> = written.iter().collect();
                    let called = self.call(frame, &subject, call).await;
                    called.map_err(|cause| naming(frame, &written, cause))?;
                    Ok(State::NONE)
                }
                Prepared::Tuple(items) => {
                    let mut states = Vec::with_capacity(items.len());
                    for item in items {
                        states.push(self.perform(frame, item).await?);
                    }
                    State::tuple(states)
                }
                Prepared::Map(items) => {
                    let mut states = BTreeMap::new();
                    for (name, item) in items {
                        states.insert(name, self.perform(frame, item).await?);
                    }
                    State::map(states)
                }
            }
        })
    }

    async fn prepare_reference<'a>(&'a self, frame: Frame<'a>, reference: &'a Ref) -> Result<Prepared> {
        let state = match reference {
            Ref::Op(OpRef::Put(subject, key, value)) => {
                let written = parameters_of([key, value]);
                let (key, value) = self.resolve_both(frame, key, value).await?;
                if let Some(kind) = collection_kind(subject) {
                    return Ok(Prepared::Done(self.load(kind, &key, &value).await?));
                }
                if let Some(kind) = chain_kind(subject) {
                    let chain = self.local_chain(kind, &key, Some(&value), frame.depth).await?;
                    return Ok(Prepared::Done(chain));
                }
                return Ok(Prepared::Write(subject.clone(), Call::Put(key, value), written));
            }
            Ref::Op(OpRef::Delete(subject, key)) => {
                let written = parameters_of([key]);
                let key = self.resolve(frame, key.clone()).await?;
                return Ok(Prepared::Write(subject.clone(), Call::Delete(key), written));
            }
            Ref::Op(OpRef::Get(subject, argument)) => {
                let key = self.resolve(frame, argument.clone()).await?;
                match chain_kind(subject) {
                    // Made anew each time: a chain in an op is not shared by its calls.
                    Some(kind) => self.local_chain(kind, &key, None, frame.depth).await?,
                    None => {
                        let called = self.call(frame, subject, Call::Get(key)).await;
                        // What is raised on purpose is left as it is.
                        let is_raised = matches!(subject, Subject::Link(link)
                            if link.path().segments().first().is_some_and(|first| first.as_str() == "error"));
                        let arguments: &[&State] = if is_raised { &[] } else { &[argument] };
                        called.map_err(|cause| naming(frame, arguments, cause))?
                    }
                }
            }
            Ref::Op(OpRef::Post(subject, parameters)) => self.post(frame, subject, parameters).await?,
            Ref::Op(OpRef::Call(subject)) => self.call(frame, subject, Call::Either).await?,
            Ref::Id(name) => self.lookup(frame, name).await?,
            Ref::Cast(class, operand) => {
                let resolved = self.resolve(frame, operand.clone()).await?;
                self.step_through(&resolved).await;
                cast_resolved(&resolved, *class).map_err(|cause| naming(frame, &[operand], cause))?
            }
            Ref::If { condition, then, or_else } => {
                let condition = self.resolve_condition(frame, condition).await?;
                self.resolve(frame, if condition { then } else { or_else }.clone()).await?
            }
            Ref::Case { condition, switches, branches } => {
                let branch = self.choose_case(frame, condition, switches, branches).await?;
                self.resolve(frame, branch.clone()).await?
            }
            Ref::While { condition, step, state } => self.run_while(frame, condition, step, state).await?,
            Ref::With(names, op) => self.capture(frame, names, op).await?,
            Ref::After { when: first, then: second } => {
                self.resolve_names(frame, reference).await?;
                self.resolve(frame, first.clone()).await?;
                self.resolve(frame, second.clone()).await?
            }
            Ref::Before { when: second, then: first } => {
                self.resolve_names(frame, reference).await?;
                let result = self.resolve(frame, first.clone()).await?;
                self.resolve(frame, second.clone()).await?;
                result
            }
            Ref::New { class, data } => {
                let (class, data) = self.resolve_both(frame, class, data).await?;
                self.instantiate(&class, data, frame.depth).await?
            }
        };
        Ok(Prepared::Done(state))
    }

    async fn resolve_both<'a>(
        &'a self,
        frame: Frame<'a>,
        first: &'a State,
        second: &'a State,
    ) -> Result<(State, State)> {
        let both = join([first, second].into_iter().map(|state| self.resolve(frame, state.clone()))).await?;
        Ok(<[State; 2]>::try_from(both).expect("two states").into())
    }

    /// The names that a sequence needs are resolved before any part of it happens (page 01 §3.5).
    async fn resolve_names<'a>(&'a self, frame: Frame<'a>, reference: &'a Ref) -> Result<()> {
        let mut names = Vec::new();
        reference.each_dependency(&mut |name| names.push(name));
        join(
            names.into_iter().map(|name| -> BoxFuture<Result<State>> { Box::pin(self.lookup(frame, name)) }),
        )
        .await?;
        Ok(())
    }

    async fn lookup<'a>(&'a self, frame: Frame<'a>, name: &'a Id) -> Result<State> {
        if name.as_str() == SELF { frame.scope.this() } else { frame.scope.get(name, frame.entry).await }
    }

    pub(super) async fn resolve_condition<'a>(
        &'a self,
        frame: Frame<'a>,
        condition: &'a State,
    ) -> Result<bool> {
        to_bool(&self.resolve(frame, condition.clone()).await?)
    }

    pub(super) async fn choose_case<'a, 's>(
        &'a self,
        frame: Frame<'a>,
        condition: &'a State,
        switches: &'a [State],
        branches: &'s [State],
    ) -> Result<&'s State> {
        assert_eq!(branches.len(), switches.len() + 1, "a branch for each switch and a default");
        let not_a_value =
            |state: &State| Error::bad_request(format_args!("a {} has no equality", state.class().path()));
        let condition = self.resolve(frame, condition.clone()).await?;
        let condition = condition.to_value().ok_or_else(|| not_a_value(&condition))?;
        self.step(switches.len()).await;
        for (switch, branch) in switches.iter().zip(branches) {
            let switch = self.resolve(frame, switch.clone()).await?;
            if condition == switch.to_value().ok_or_else(|| not_a_value(&switch))? {
                return Ok(branch);
            }
        }
        Ok(&branches[switches.len()])
    }

    async fn run_while<'a>(
        &'a self,
        frame: Frame<'a>,
        condition: &'a State,
        step: &'a State,
        state: &'a State,
    ) -> Result<State> {
        let parts = [condition, step, state].into_iter().map(|part| self.resolve(frame, part.clone()));
        let [condition, step, mut state] = <[State; 3]>::try_from(join(parts).await?).expect("three states");
        while to_bool(&self.apply(&condition, state.clone(), frame.depth).await?)? {
            state = self.apply(&step, state, frame.depth).await?;
        }
        Ok(state)
    }

    async fn capture<'a>(&'a self, frame: Frame<'a>, names: &'a [Id], op: &'a State) -> Result<State> {
        self.step(names.len()).await;
        let mut captured = BTreeMap::new();
        for name in names {
            captured.insert(name.clone(), self.lookup(frame, name).await?);
        }
        match self.resolve(frame, op.clone()).await? {
            State::Op(op) => Ok(State::Closure(Arc::new(Closure::new(captured, op)?))),
            other => Err(Error::bad_request(format_args!("{} is not an op", cast::describe(&other)))),
        }
    }

    async fn post<'a>(
        &'a self,
        frame: Frame<'a>,
        subject: &'a Subject,
        parameters: &'a Map,
    ) -> Result<State> {
        if let Subject::Link(link) = subject
            && native_class(link).is_some()
        {
            // The prototype of a class stays as it is: its references mean something to its callers only.
            return objects::define_class(Some(link.clone()), parameters.clone());
        }
        let parameters = self.resolve(frame, State::Map(parameters.clone())).await?;
        let parameters = parameters.as_map().expect("a map resolves to a map").clone();
        self.call(frame, subject, Call::Post(parameters)).await
    }

    /// Make an instance of a class, of a map of members as a class without parent, or of a served class.
    async fn instantiate(&self, class: &State, data: State, depth: u32) -> Result<State> {
        match class {
            State::Class(class) => self.instance(class, data),
            State::Map(prototype) => self.instance(&Arc::new(Class::new(None, prototype.clone())?), data),
            State::Value(Value::Link(link)) => {
                let link = link.clone();
                match self.served_class(&link) {
                    Some(class) => self.instance(&class, data),
                    None => self.dispatch_link(&link, Call::Get(data), depth).await,
                }
            }
            other => Err(Error::bad_request(format_args!("{} is not a class", cast::describe(other)))),
        }
    }

    /// Call a subject; what it names is resolved first.
    async fn call<'a>(&'a self, frame: Frame<'a>, subject: &'a Subject, call: Call) -> Result<State> {
        let (name, path) = match subject {
            Subject::Link(link) => return self.dispatch_link(link, call, frame.depth).await,
            Subject::Id(name, path) => (name, path.segments()),
        };
        let mut state = self.lookup(frame, name).await?;
        let mut path = path;
        // An attribute that is a reference means what it means where it is used.
        let class = match &state {
            State::Instance(instance) => Some(instance.class()),
            State::Class(class) => Some(class),
            _ => None,
        };
        if let Some(class) = class
            && let Some((first, rest)) = path.split_first()
            && let Some(attribute) = self.member(class, first)
            && attribute.has_ref()
        {
            state = self.resolve(frame, attribute).await?;
            path = rest;
        }
        if !is_plain(&state) {
            return self.route(state, path, call, frame.depth).await;
        }
        // What a program asks of a parameter is what it takes it for.
        let is_known = path.first().is_none_or(|method| METHODS.contains(&method.as_str()));
        let called = self.route(state.clone(), path, call, frame.depth).await;
        called.map_err(|cause| match cause.kind() {
            ErrorKind::NotFound if is_known && frame.scope.is_parameter(name) => {
                Error::bad_request(format_args!(
                    "the parameter {name} cannot be {}: {}",
                    cast::describe(&state),
                    cause.message()
                ))
            }
            _ => cause,
        })
    }
}

/// The methods that states have by nature, but for those that all have.
const METHODS: [&str; 38] = [
    "abs",
    "add",
    "and",
    "append",
    "concatenate",
    "contains",
    "count",
    "div",
    "extend",
    "first",
    "fold",
    "for_each",
    "gt",
    "gte",
    "insert",
    "keys",
    "len",
    "limit",
    "lt",
    "lte",
    "map",
    "mul",
    "not",
    "or",
    "order",
    "pow",
    "render",
    "reverse",
    "rows",
    "schema",
    "select",
    "sub",
    "sum",
    "where",
    "xor",
    "zip",
    "update",
    "is_empty",
];

/// Whether nothing is found in a state but the methods of its class.
fn is_plain(state: &State) -> bool {
    matches!(state, State::Value(value) if !matches!(value, Value::Tuple(_)))
}

/// Those of the arguments of a write that may be parameters of the op around it: it is looked up only if it fails.
fn parameters_of<const N: usize>(arguments: [&State; N]) -> Vec<State> {
    let is_name =
        |argument: &State| matches!(argument, State::Ref(reference) if matches!(**reference, Ref::Id(_)));
    arguments.into_iter().filter(|argument| is_name(argument)).cloned().collect()
}

/// The name of the parameter that an argument is, if it is one.
fn parameter<'s>(frame: Frame, argument: &'s State) -> Option<&'s Id> {
    match argument {
        State::Ref(reference) => match &**reference {
            Ref::Id(name) if frame.scope.is_parameter(name) => Some(name),
            _ => None,
        },
        _ => None,
    }
}

/// An error of a call that cannot take its argument, with the name of the parameter that this argument is. What a method
/// that was called says, or an error that is raised on purpose, is left as it is.
fn naming(frame: Frame, arguments: &[&State], cause: Error) -> Error {
    let mut names = arguments.iter().filter_map(|argument| parameter(frame, argument));
    match (names.next(), names.next()) {
        (Some(name), None)
            if cause.kind() == ErrorKind::BadRequest && !cause.message().starts_with("in /") =>
        {
            cause.context(format_args!("the parameter {name}"))
        }
        _ => cause,
    }
}

/// The native class that a link names, if it does.
pub(super) fn native_class(link: &Link) -> Option<NativeClass> {
    if link.origin().is_some() { None } else { NativeClass::from_path(&link.path().to_string()) }
}

/// The kind of chain that `{"/state/chain/<kind>": [subject]}` makes in an op (page 04 §4.1).
pub(crate) fn chain_kind(subject: &Subject) -> Option<ChainKind> {
    match subject {
        Subject::Link(link) => native_class(link).and_then(ChainKind::from_class),
        Subject::Id(..) => None,
    }
}

/// The kind of collection that `{"/state/collection/<kind>": [schema, rows]}` makes (page 02 §1.4).
pub(crate) fn collection_kind(subject: &Subject) -> Option<CollectionKind> {
    match subject {
        Subject::Link(link) => native_class(link).and_then(CollectionKind::from_class),
        Subject::Id(..) => None,
    }
}

/// The cast of an operand that was a reference (page 01 §2.5).
fn cast_resolved(operand: &State, class: NativeClass) -> Result<State> {
    let result = cast::cast(operand, class);
    if result.is_err()
        && matches!(class, NativeClass::ValueTuple | NativeClass::Tuple | NativeClass::ScalarTuple)
    {
        // `[$x]` is a tuple of one if `$x` is not a tuple.
        return cast::cast(&State::tuple(vec![operand.clone()])?, class);
    }
    result
}

/// A condition must be a bool (page 01 §3.4).
fn to_bool(state: &State) -> Result<bool> {
    match state {
        State::Value(Value::Number(Number::Bool(value))) => Ok(*value),
        State::Instance(instance) => to_bool(instance.data()),
        other => Err(Error::bad_request(format_args!(
            "a condition must resolve to a bool, not {}",
            cast::describe(other)
        ))),
    }
}

/// Whether a reference makes a collection or a chain.
pub(crate) fn is_literal(reference: &Ref) -> bool {
    match reference {
        Ref::Op(op @ (OpRef::Get(..) | OpRef::Put(..))) => {
            collection_kind(op.subject()).is_some() || chain_kind(op.subject()).is_some()
        }
        _ => false,
    }
}
