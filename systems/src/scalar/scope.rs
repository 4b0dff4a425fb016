//! The scope of a running context: which entries are resolved, and which must be (protocol page 01 §4.1).

use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use components::language::memory::Account;
use components::language::op::OpDef;
use components::transaction::ledger::Ledger;
use components::{Error, Id, Result, State};

use super::ITEMS_PER_FUEL;

/// The name of the instance whose method runs.
pub const SELF: &str = "self";

#[derive(Debug)]
enum Slot {
    /// Not needed so far.
    Unneeded(State),
    /// Needed, but some of these are not resolved yet.
    Blocked { state: State, missing: BTreeSet<Id> },
    /// Being resolved; it turned out to need these on the way.
    Running { waits: BTreeSet<Id> },
    /// Resolved.
    Done(State),
}

#[derive(Debug, Default)]
struct Slots {
    slots: BTreeMap<Id, Slot>,
    /// Entries that wait for the entry of this name.
    dependents: BTreeMap<Id, Vec<Id>>,
    /// Entries that can be started, in the order in which they became so.
    ready: std::collections::VecDeque<Id>,
    bytes: u64,
}

/// Named states that are resolved when they are needed, each at most once.
#[derive(Debug)]
pub struct Scope<'a> {
    ledger: &'a Ledger,
    this: Option<State>,
    /// The op whose body this is, if it is one.
    op: Option<&'a OpDef>,
    slots: Mutex<Slots>,
}

impl<'a> Scope<'a> {
    /// A scope without entries; `this` is what `$self` means in it.
    pub fn new(ledger: &'a Ledger, this: Option<State>) -> Self {
        Self { ledger, this, op: None, slots: Mutex::default() }
    }

    /// A scope for the body of an op.
    pub fn of_op(ledger: &'a Ledger, this: Option<State>, op: &'a OpDef) -> Self {
        Self { ledger, this, op: Some(op), slots: Mutex::default() }
    }

    /// Whether this is the name of a parameter that the op was called with.
    pub fn is_parameter(&self, name: &Id) -> bool {
        match self.op {
            Some(OpDef::Get { key, .. } | OpDef::Delete { key, .. }) => name == key,
            Some(OpDef::Put { key, value, .. }) => name == key || name == value,
            // What the op does not name itself its caller does.
            Some(OpDef::Post { body }) => !body.iter().any(|(entry, _)| entry == name),
            None => false,
        }
    }

    fn unknown(&self, name: &Id) -> Error {
        match self.op {
            Some(OpDef::Post { .. }) => Error::bad_request(format_args!("the parameter {name} is missing")),
            _ => Error::not_found(format_args!("there is no ${name} here")),
        }
    }

    // A program that panics is never polled again, so a poisoned scope is never read.
    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What `$self` means here.
    ///
    /// # Errors
    /// 400 if there is no instance.
    pub fn this(&self) -> Result<State> {
        self.this.clone().ok_or_else(|| Error::bad_request("there is no $self here"))
    }

    /// Add an entry; a later one of the same name takes its place.
    pub fn define(&self, name: Id, state: State) {
        self.slots().slots.insert(name, Slot::Unneeded(state));
    }

    /// Add a state that is resolved already: a parameter.
    ///
    /// # Errors
    /// 400 if the transaction holds too much.
    pub fn bind(&self, name: Id, state: State) -> Result<()> {
        debug_assert!(!state.has_ref(), "parameters are resolved");
        let slots = &mut *self.slots();
        self.keep(slots, name, state)
    }

    fn keep(&self, slots: &mut Slots, name: Id, state: State) -> Result<()> {
        let bytes = state.bytes();
        self.ledger.reserve(bytes)?;
        slots.bytes += bytes;
        slots.slots.insert(name, Slot::Done(state));
        Ok(())
    }

    /// Make sure that the entry of this name is resolved sooner or later.
    ///
    /// # Errors
    /// 404 if there is no such entry, 400 if it is a parameter that is missing; 400 naming the cycle if it waits for itself.
    pub fn demand(&self, name: &Id) -> Result<()> {
        let slots = &mut *self.slots();
        let mut stack = vec![name.clone()];
        while let Some(name) = stack.pop() {
            let Some(slot) = slots.slots.get_mut(&name) else {
                return Err(self.unknown(&name));
            };
            let Slot::Unneeded(state) = slot else {
                continue;
            };
            let state = std::mem::replace(state, State::NONE);
            if !state.has_ref() {
                self.keep(slots, name, state)?;
                continue;
            }
            let mut seen = BTreeSet::new();
            let mut needs = Vec::new();
            state.each_dependency(&mut |dependency| {
                if dependency.as_str() != SELF && seen.insert(dependency) {
                    needs.push(dependency.clone());
                }
            });
            let mut missing = BTreeSet::new();
            // What is mentioned first is on top of the stack, so that it starts first.
            for need in needs.into_iter().rev() {
                match slots.slots.get(&need) {
                    Some(Slot::Done(_)) => {}
                    Some(Slot::Unneeded(plain)) if !plain.has_ref() && need != name => stack.push(need),
                    _ => {
                        slots.dependents.entry(need.clone()).or_default().push(name.clone());
                        missing.insert(need.clone());
                        stack.push(need);
                    }
                }
            }
            if missing.is_empty() {
                slots.ready.push_back(name.clone());
            }
            slots.slots.insert(name, Slot::Blocked { state, missing });
        }
        let (cycle, looked_at) = slots.cycle(name);
        // As many entries may wait for each other as a client likes to send.
        self.ledger.charge((looked_at / ITEMS_PER_FUEL) as u64);
        match cycle {
            Some(cycle) => Err(Error::bad_request(format_args!("these wait for each other: {cycle}"))),
            None => Ok(()),
        }
    }

    /// The next entry that can be resolved, with its state.
    pub fn start_next(&self) -> Option<(Id, State)> {
        let slots = &mut *self.slots();
        let name = slots.ready.pop_front()?;
        let slot = slots.slots.get_mut(&name).expect("a ready entry");
        let Slot::Blocked { state, missing } =
            std::mem::replace(slot, Slot::Running { waits: BTreeSet::new() })
        else {
            unreachable!("an entry that is ready was blocked before");
        };
        assert!(missing.is_empty(), "an entry that is ready misses nothing");
        Some((name, state))
    }

    /// Whether there is an entry that can be started.
    pub fn is_ready(&self) -> bool {
        !self.slots().ready.is_empty()
    }

    /// An entry is resolved.
    ///
    /// # Errors
    /// 400 if the transaction holds too much.
    pub fn finish(&self, name: &Id, state: State) -> Result<()> {
        let slots = &mut *self.slots();
        self.keep(slots, name.clone(), state)?;
        for dependent in slots.dependents.remove(name).unwrap_or_default() {
            if let Some(Slot::Blocked { missing, .. }) = slots.slots.get_mut(&dependent)
                && missing.remove(name)
                && missing.is_empty()
            {
                slots.ready.push_back(dependent);
            }
        }
        Ok(())
    }

    /// A conditional entry has chosen its branch, which is to be resolved in its place.
    ///
    /// # Errors
    /// As [`Self::demand`].
    pub fn restart(&self, name: &Id, branch: State) -> Result<()> {
        assert!(branch.has_ref(), "a branch without references is resolved");
        self.slots().slots.insert(name.clone(), Slot::Unneeded(branch));
        self.demand(name)
    }

    /// The resolved state of an entry, if it is resolved.
    pub fn resolved(&self, name: &Id) -> Option<State> {
        match self.slots().slots.get(name) {
            Some(Slot::Done(state)) => Some(state.clone()),
            _ => None,
        }
    }

    /// The resolved state of an entry; `entry` is the one that needs it.
    ///
    /// # Errors
    /// As [`Self::demand`].
    pub async fn get(&self, name: &Id, entry: Option<&Id>) -> Result<State> {
        if let Some(state) = self.resolved(name) {
            return Ok(state);
        }
        let running = entry.and_then(|entry| {
            let mut slots = self.slots();
            match slots.slots.get_mut(entry) {
                Some(Slot::Running { waits }) => {
                    waits.insert(name.clone());
                    Some(entry)
                }
                _ => None,
            }
        });
        self.demand(name)?;
        if let Some(entry) = running {
            // The entry that runs may be what the other one waits for.
            self.demand(entry)?;
        }
        poll_fn(|_| self.resolved(name).map_or(Poll::Pending, |state| Poll::Ready(Ok(state)))).await
    }
}

impl Slots {
    /// The cycle that `start` waits in or for, as text, and how many entries were looked at.
    fn cycle(&self, start: &Id) -> (Option<String>, usize) {
        let needs = |name: &Id| -> Vec<&Id> {
            match self.slots.get(name) {
                Some(Slot::Blocked { missing, .. }) => missing.iter().collect(),
                Some(Slot::Running { waits }) => waits
                    .iter()
                    .filter(|need| !matches!(self.slots.get(*need), Some(Slot::Done(_))))
                    .collect(),
                _ => Vec::new(),
            }
        };
        let Some((name, _)) = self.slots.get_key_value(start) else {
            return (None, 0);
        };
        let mut seen = BTreeSet::from([name]);
        let mut on_path = BTreeSet::from([name]);
        let mut path = vec![(name, needs(name))];
        while let Some((name, rest)) = path.last_mut() {
            let name = *name;
            match rest.pop() {
                None => {
                    on_path.remove(name);
                    path.pop();
                }
                Some(next) if on_path.contains(next) => {
                    let cycle = path.iter().map(|(name, _)| *name).skip_while(|name| *name != next);
                    let names: Vec<String> = cycle.chain([next]).map(|name| format!("${name}")).collect();
                    return (Some(names.join(" -> ")), seen.len());
                }
                Some(next) if seen.insert(next) => {
                    on_path.insert(next);
                    path.push((next, needs(next)));
                }
                Some(_) => {}
            }
        }
        (None, seen.len())
    }
}

impl Drop for Scope<'_> {
    fn drop(&mut self) {
        let bytes = self.slots().bytes;
        self.ledger.release(bytes);
    }
}
