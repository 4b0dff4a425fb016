//! Contexts, ops and closures (protocol page 01 §4).

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use components::language::cast;
use components::language::op::{Closure, OpDef};
use components::language::reference::Ref;
use components::{Error, Id, Map, Result, State, Value};

use super::containers::to_parameters;
use super::{Call, Frame, ITEMS_PER_FUEL, Interpreter, Scope, deeper, key_value};
use crate::futures::BoxFuture;

/// What an entry has come to.
enum Progress {
    Done(State),
    /// A conditional has chosen this branch.
    Branch(State),
}

impl Interpreter {
    /// Resolve the last entry of a context, and what it depends on (page 01 §4.1).
    pub async fn run_context<'a>(
        &'a self,
        scope: &'a Scope<'a>,
        body: &'a [(Id, State)],
        depth: u32,
    ) -> Result<State> {
        let Some((last, _)) = body.last() else {
            return Ok(State::NONE);
        };
        for (name, state) in body {
            scope.define(name.clone(), state.clone());
        }
        scope.demand(last)?;
        let mut running: Vec<(Id, BoxFuture<'a, Result<Progress>>)> = Vec::new();
        poll_fn(move |context| {
            loop {
                while let Some((name, state)) = scope.start_next() {
                    let entry = name.clone();
                    running.push((name, Box::pin(self.resolve_entry(scope, entry, state, depth))));
                }
                let mut outcome = Ok(());
                let mut moved = false;
                running.retain_mut(|(name, future)| {
                    if outcome.is_err() {
                        return true;
                    }
                    let Poll::Ready(progress) = future.as_mut().poll(context) else {
                        return true;
                    };
                    moved = true;
                    outcome = match progress {
                        Ok(Progress::Done(state)) => scope.finish(name, state),
                        Ok(Progress::Branch(state)) => scope.restart(name, state),
                        Err(cause) => Err(cause),
                    }
                    .map_err(|cause| cause.context(format_args!("while resolving {name}")));
                    false
                });
                if let Err(cause) = outcome {
                    return Poll::Ready(Err(cause));
                }
                if let Some(state) = scope.resolved(last) {
                    return Poll::Ready(Ok(state));
                }
                // What has moved may be what another entry waits for.
                if !moved && !scope.is_ready() {
                    return Poll::Pending;
                }
                // All that run are looked at again: what waits for another entry has spent nothing yet.
                if !self.ledger.spend((running.len() / ITEMS_PER_FUEL) as u64) {
                    return Poll::Pending;
                }
            }
        })
        .await
    }

    async fn resolve_entry<'a>(
        &'a self,
        scope: &'a Scope<'a>,
        name: Id,
        state: State,
        depth: u32,
    ) -> Result<Progress> {
        let frame = Frame { scope, entry: Some(&name), depth };
        // The names in a branch are not known before it is chosen: it becomes the state of the entry, so that a
        // long row of entries never nests.
        let branch = match &state {
            State::Ref(reference) => match &**reference {
                Ref::If { condition, then, or_else } => {
                    let condition = self.resolve_condition(frame, condition).await?;
                    Some(if condition { then } else { or_else })
                }
                Ref::Case { condition, switches, branches } => {
                    Some(self.choose_case(frame, condition, switches, branches).await?)
                }
                _ => None,
            },
            _ => None,
        };
        match branch {
            Some(branch) if branch.has_ref() => Ok(Progress::Branch(branch.clone())),
            Some(branch) => Ok(Progress::Done(branch.clone())),
            None => self.resolve(frame, state).await.map(Progress::Done),
        }
    }

    /// Call an op; `this` is what `$self` means in it, `captured` what its closure has captured (page 01 §4.3).
    pub async fn call_op(
        &self,
        op: &Arc<OpDef>,
        this: Option<State>,
        captured: Option<&Map>,
        call: Call,
        depth: u32,
    ) -> Result<State> {
        let call = match (&**op, call) {
            (OpDef::Post { .. }, call) => call.or_post(),
            (_, call) => call.or_get(),
        };
        let argument = match (&**op, call) {
            (OpDef::Get { .. }, Call::Get(key)) | (OpDef::Delete { .. }, Call::Delete(key)) => {
                vec![key_value(&key)?.into()]
            }
            (OpDef::Put { .. }, Call::Put(key, value)) => vec![key_value(&key)?.into(), value],
            (OpDef::Post { .. }, Call::Post(parameters)) => vec![State::Map(parameters)],
            (op, call) => return Err(call.not_allowed(format_args!("a {}", op.class().path()))),
        };
        let result = self.invoke(op, this, captured, argument, depth).await?;
        Ok(answer(op, result))
    }

    /// Call a closure.
    pub async fn call_closure(&self, closure: &Closure, call: Call, depth: u32) -> Result<State> {
        let this = closure.this().cloned();
        self.call_op(closure.op(), this, Some(closure.captured()), call, depth).await
    }

    /// Call an op or closure with one argument, as `map`, `fold` and `while` do (page 01 §4.4).
    pub async fn apply(&self, callable: &State, argument: State, depth: u32) -> Result<State> {
        let result = self.apply_item(callable, argument, depth).await?;
        Ok(answer(parts(callable)?.0, result))
    }

    /// Call an op or closure with an item of a stream; what a PUT or DELETE op comes to is a result there, too
    /// (page 02 §6).
    pub(crate) async fn apply_item(&self, callable: &State, item: State, depth: u32) -> Result<State> {
        let (op, this, captured) = parts(callable)?;
        let arguments = match &**op {
            OpDef::Get { .. } | OpDef::Delete { .. } => vec![item],
            OpDef::Put { .. } => match item.to_tuple().as_deref() {
                Some([key, value]) => vec![key.clone(), value.clone()],
                _ => return Err(Error::bad_request("a PUT op is applied to a pair of key and value")),
            },
            OpDef::Post { .. } => vec![State::map(to_parameters(&item)?)?],
        };
        self.invoke(op, this, captured, arguments, depth).await
    }

    /// Call an op or closure with what a fold over a stream has come to, and the next item (page 02 §6).
    pub(crate) async fn fold_item(
        &self,
        callable: &State,
        so_far: State,
        item: State,
        depth: u32,
    ) -> Result<State> {
        let (op, this, captured) = parts(callable)?;
        let arguments = match &**op {
            OpDef::Get { .. } | OpDef::Delete { .. } => vec![State::tuple(vec![so_far, item])?],
            OpDef::Put { .. } => vec![so_far, item],
            OpDef::Post { .. } => return Err(Error::bad_request("a stream is not folded by a POST op")),
        };
        self.invoke(op, this, captured, arguments, depth).await
    }

    /// Run the body of an op with its arguments bound, for its result.
    async fn invoke(
        &self,
        op: &Arc<OpDef>,
        this: Option<State>,
        captured: Option<&Map>,
        arguments: Vec<State>,
        depth: u32,
    ) -> Result<State> {
        let depth = deeper(depth)?;
        let captured_items = captured.iter().flat_map(|captured| captured.values()).map(binding_items);
        let argument_items = arguments.iter().map(|argument| match argument.as_map() {
            Some(parameters) => parameters.values().map(binding_items).sum(),
            None => binding_items(argument),
        });
        let items: usize = captured_items.chain(argument_items).sum();
        self.step(op.body().len() + items).await;
        let scope = Scope::of_op(&self.ledger, this, op);
        for (name, state) in captured.iter().flat_map(|captured| captured.iter()) {
            scope.bind(name.clone(), state.clone())?;
        }
        let mut arguments = arguments.into_iter();
        let mut next = || arguments.next().expect("an argument for each parameter");
        match &**op {
            OpDef::Get { key, .. } | OpDef::Delete { key, .. } => scope.bind(key.clone(), next())?,
            OpDef::Put { key, value, .. } => {
                scope.bind(key.clone(), next())?;
                scope.bind(value.clone(), next())?;
            }
            OpDef::Post { .. } => {
                let parameters = next();
                for (name, state) in parameters.as_map().expect("parameters").iter() {
                    scope.bind(name.clone(), state.clone())?;
                }
            }
        }
        let body: BoxFuture<Result<State>> = Box::pin(self.run_context(&scope, op.body(), depth));
        body.await
    }
}

/// What the caller of an op gets.
fn answer(op: &OpDef, result: State) -> State {
    match op {
        OpDef::Get { .. } | OpDef::Post { .. } => result,
        OpDef::Put { .. } | OpDef::Delete { .. } => State::NONE,
    }
}

/// The op of an op or closure, its `$self` and what it has captured.
fn parts(callable: &State) -> Result<(&Arc<OpDef>, Option<State>, Option<&Map>)> {
    match callable {
        State::Op(op) => Ok((op, None, None)),
        State::Closure(closure) => Ok((closure.op(), closure.this().cloned(), Some(closure.captured()))),
        other => Err(Error::bad_request(format_args!("{} is not an op", cast::describe(other)))),
    }
}

/// How many items are looked at to bind a state to a name: the size of a tuple of values is counted each time.
fn binding_items(state: &State) -> usize {
    fn items(value: &Value) -> usize {
        match value {
            Value::Tuple(values) => 1 + values.iter().map(items).sum::<usize>(),
            _ => 1,
        }
    }
    match state {
        State::Value(value) => items(value),
        _ => 1,
    }
}
