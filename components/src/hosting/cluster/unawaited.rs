//! Writes that never happen, since nothing waits for them (protocol page 01 §4.1): only what the last entry of a context
//! needs is resolved.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use super::{Catalog, Member};
use crate::language::op::OpDef;
use crate::language::reference::{OpRef, Ref, Subject};
use crate::language::state::State;
use crate::value::name::{Id, Path};

/// A write in the body of a method that never happens.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UnawaitedWrite {
    /// Where the method is served.
    pub method: Path,
    /// The entry that writes, after those that it is within.
    pub entry: Vec<Id>,
}

impl fmt::Display for UnawaitedWrite {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let entry: Vec<&str> = self.entry.iter().map(Id::as_str).collect();
        write!(
            f,
            "the method {} writes in its entry {}, but nothing waits for that entry, so it never happens: return it, or \
             put it into an After",
            self.method,
            entry.join(" > ")
        )
    }
}

impl Catalog {
    /// The writes in methods of clusters and of their classes that never happen.
    pub fn unawaited_writes(&self) -> Vec<UnawaitedWrite> {
        let mut found = Vec::new();
        for (cluster, content) in &self.clusters {
            for (name, member) in &content.members {
                let place = cluster.append(name.clone());
                match member {
                    Member::Method(op) => self.look_into(cluster, &place, op, &mut Vec::new(), &mut found),
                    Member::Class(class) => {
                        for (name, member) in class.prototype().iter() {
                            if let State::Op(op) = member {
                                let method = place.append(name.clone());
                                self.look_into(cluster, &method, op, &mut Vec::new(), &mut found);
                            }
                        }
                    }
                    Member::Chain(_) => {}
                }
            }
        }
        found
    }

    fn look_into(
        &self,
        cluster: &Path,
        method: &Path,
        op: &OpDef,
        within: &mut Vec<Id>,
        found: &mut Vec<UnawaitedWrite>,
    ) {
        let body = op.body();
        let needed = needed(body);
        for (i, (name, state)) in body.iter().enumerate() {
            within.push(name.clone());
            // Of entries with one name the last one counts.
            let is_replaced = body[i + 1..].iter().any(|(later, _)| later == name);
            if is_replaced || !needed.contains(name) {
                // An op that nobody calls is no write.
                if !matches!(state, State::Op(_)) && self.writes(cluster, state, &mut BTreeSet::new()) {
                    found.push(UnawaitedWrite { method: method.clone(), entry: within.clone() });
                }
            } else {
                let mut ops: Vec<Arc<OpDef>> = Vec::new();
                each_part(state, &mut |part| {
                    if let State::Op(op) = part {
                        ops.push(op.clone());
                    }
                });
                for op in ops {
                    self.look_into(cluster, method, &op, within, found);
                }
            }
            within.pop();
        }
    }

    /// Whether to resolve a state writes something, as far as can be told. `seen` are the methods that were looked at.
    fn writes(&self, cluster: &Path, state: &State, seen: &mut BTreeSet<Path>) -> bool {
        let mut does = false;
        each_part(state, &mut |part| {
            does = does
                || match part {
                    State::Ref(reference) => match &**reference {
                        Ref::Op(OpRef::Delete(..) | OpRef::Put(Subject::Id(..), ..)) => true,
                        // A literal of a collection or chain looks like a PUT.
                        Ref::Op(OpRef::Put(Subject::Link(link), ..)) => {
                            link.path().segments().first().is_none_or(|first| first.as_str() != "state")
                        }
                        Ref::Op(OpRef::Get(subject, _) | OpRef::Post(subject, _) | OpRef::Call(subject)) => {
                            self.method_writes(cluster, subject, seen)
                        }
                        _ => false,
                    },
                    State::Op(op) => op.body().iter().any(|(_, state)| self.writes(cluster, state, seen)),
                    _ => false,
                };
        });
        does
    }

    fn method_writes(&self, cluster: &Path, subject: &Subject, seen: &mut BTreeSet<Path>) -> bool {
        let path = match subject {
            Subject::Id(id, rest) if id.as_str() == "self" => cluster.join(rest.segments()),
            Subject::Link(link) if self.is_local(link) => link.path().clone(),
            _ => return false,
        };
        let Some((found, cluster, [name])) = self.find(path.segments()) else { return false };
        let Some(Member::Method(op)) = cluster.members.get(name) else { return false };
        let is_call = |state: &State| !matches!(state, State::Op(_));
        seen.insert(path.clone())
            && op.body().iter().any(|(_, state)| is_call(state) && self.writes(found, state, seen))
    }
}

/// The names of a body that its last entry may need.
fn needed(body: &[(Id, State)]) -> BTreeSet<Id> {
    let entries: BTreeMap<&Id, &State> = body.iter().map(|(name, state)| (name, state)).collect();
    let mut needed = BTreeSet::new();
    let mut next: Vec<Id> = body.last().map(|(name, _)| name.clone()).into_iter().collect();
    while let Some(name) = next.pop() {
        if let Some(state) = entries.get(&name)
            && needed.insert(name)
        {
            each_part(state, &mut |part| {
                if let State::Ref(reference) = part {
                    each_name(reference, &mut |name| next.push(name.clone()));
                }
            });
        }
    }
    needed
}

/// The names that a reference itself mentions, not those of its parts.
fn each_name(reference: &Ref, visit: &mut impl FnMut(&Id)) {
    match reference {
        Ref::Id(name) => visit(name),
        Ref::Op(op) => {
            if let Subject::Id(name, _) = op.subject() {
                visit(name);
            }
        }
        Ref::With(names, _) => names.iter().for_each(visit),
        _ => {}
    }
}

/// A state and everything in it, branches included, but not what is in op definitions: these have names of their own.
fn each_part(state: &State, visit: &mut impl FnMut(&State)) {
    let mut next = vec![state];
    while let Some(state) = next.pop() {
        visit(state);
        match state {
            State::Tuple(items) => next.extend(items.iter()),
            State::Map(items) => next.extend(items.values()),
            State::Instance(instance) => next.push(instance.data()),
            State::Ref(reference) => match &**reference {
                Ref::Op(OpRef::Get(_, key) | OpRef::Delete(_, key)) => next.push(key),
                Ref::Op(OpRef::Put(_, key, value)) => next.extend([key, value]),
                Ref::Op(OpRef::Post(_, parameters)) => next.extend(parameters.values()),
                Ref::Id(_) | Ref::Op(OpRef::Call(_)) => {}
                Ref::Cast(_, operand) => next.push(operand),
                Ref::If { condition, then, or_else } => next.extend([condition, then, or_else]),
                Ref::Case { condition, switches, branches } => {
                    next.push(condition);
                    next.extend(switches.iter().chain(branches));
                }
                Ref::While { condition, step, state } => next.extend([condition, step, state]),
                Ref::With(_, op) => next.push(op),
                Ref::After { when, then } | Ref::Before { when, then } => next.extend([when, then]),
                Ref::New { class, data } => next.extend([class, data]),
            },
            _ => {}
        }
    }
}
