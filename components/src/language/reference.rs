//! References: what the language resolves (protocol page 01 §3).

use std::fmt;

use super::state::{Map, State};
use crate::value::name::{Id, Link, Path};
use crate::value::native::NativeClass;

/// A verb of HTTP and of the language (page 01 §1.1).
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Verb {
    /// Read.
    Get,
    /// Set.
    Put,
    /// Call.
    Post,
    /// Remove.
    Delete,
}

impl Verb {
    /// The name of this verb as HTTP writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Put => "PUT",
            Self::Post => "POST",
            Self::Delete => "DELETE",
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What an op reference is called on (page 01 §2.2).
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Subject {
    /// A path on this host, or a link to any host.
    Link(Link),
    /// `$id` or `$id/path`.
    Id(Id, Path),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Link(link) => write!(f, "{link}"),
            Self::Id(id, path) if path.is_root() => write!(f, "${id}"),
            Self::Id(id, path) => write!(f, "${id}{path}"),
        }
    }
}

/// A call (page 01 §3.1).
#[derive(Clone, Debug)]
pub enum OpRef {
    /// `{"S": [key]}`
    Get(Subject, State),
    /// `{"S": [key, value]}`
    Put(Subject, State, State),
    /// `{"S": {parameters}}`
    Post(Subject, Map),
    /// `{"/state/scalar/ref/op/delete": [S, key]}`
    Delete(Subject, State),
    /// `{"S": {}}`: a POST without parameters if S answers POST, else a GET without key, else S itself.
    Call(Subject),
}

impl OpRef {
    /// What is called.
    pub fn subject(&self) -> &Subject {
        match self {
            Self::Get(subject, _)
            | Self::Put(subject, _, _)
            | Self::Post(subject, _)
            | Self::Delete(subject, _)
            | Self::Call(subject) => subject,
        }
    }
}

/// A reference (page 01 §3.3).
#[derive(Clone, Debug)]
pub enum Ref {
    /// The state with this name.
    Id(Id),
    /// A call.
    Op(OpRef),
    /// The operand, resolved and cast: a typed literal whose content is a reference (page 01 §2.5).
    Cast(NativeClass, State),
    /// One of two branches.
    If {
        /// Must resolve to a bool.
        condition: State,
        /// Resolved if it is true.
        then: State,
        /// Resolved if it is false.
        or_else: State,
    },
    /// The branch whose switch equals the condition.
    Case {
        /// What to compare.
        condition: State,
        /// What to compare it with, in order.
        switches: Vec<State>,
        /// One branch per switch and a default.
        branches: Vec<State>,
    },
    /// A loop.
    While {
        /// An op from the state to a bool.
        condition: State,
        /// An op from one state to the next.
        step: State,
        /// The first state.
        state: State,
    },
    /// A closure over the named states.
    With(Vec<Id>, State),
    /// `when` to completion, then `then`, whose result it is.
    After {
        /// Resolved first.
        when: State,
        /// Resolved second.
        then: State,
    },
    /// `then` to completion, then `when`; the result is that of `then` (page 01 §3.4).
    Before {
        /// Resolved second.
        when: State,
        /// Resolved first.
        then: State,
    },
    /// An instance of a class.
    New {
        /// The class, or a map as a class without parent.
        class: State,
        /// Its data.
        data: State,
    },
}

impl Ref {
    /// The native class of this reference.
    pub fn class(&self) -> NativeClass {
        match self {
            Self::Id(_) => NativeClass::RefId,
            Self::Op(OpRef::Get(..) | OpRef::Call(_)) | Self::Cast(..) => NativeClass::RefGet,
            Self::Op(OpRef::Put(..)) => NativeClass::RefPut,
            Self::Op(OpRef::Post(..)) => NativeClass::RefPost,
            Self::Op(OpRef::Delete(..)) => NativeClass::RefDelete,
            Self::If { .. } => NativeClass::RefIf,
            Self::Case { .. } => NativeClass::RefCase,
            Self::While { .. } => NativeClass::RefWhile,
            Self::With(..) => NativeClass::RefWith,
            Self::After { .. } => NativeClass::RefAfter,
            Self::Before { .. } => NativeClass::RefBefore,
            Self::New { .. } => NativeClass::RefNew,
        }
    }

    /// Call `visit` with every name that must be resolved before this reference is (page 01 §3.5).
    pub fn each_dependency<'a>(&'a self, visit: &mut impl FnMut(&'a Id)) {
        match self {
            Self::Id(id) => visit(id),
            Self::Op(op) => {
                if let Subject::Id(id, _) = op.subject() {
                    visit(id);
                }
                match op {
                    OpRef::Get(_, key) | OpRef::Delete(_, key) => key.each_dependency(visit),
                    OpRef::Put(_, key, value) => {
                        key.each_dependency(visit);
                        value.each_dependency(visit);
                    }
                    OpRef::Post(_, parameters) => {
                        parameters.values().for_each(|state| state.each_dependency(visit));
                    }
                    OpRef::Call(_) => {}
                }
            }
            Self::Cast(_, operand) => operand.each_dependency(visit),
            Self::If { condition, .. } => condition.each_dependency(visit),
            Self::Case { condition, switches, .. } => {
                condition.each_dependency(visit);
                switches.iter().for_each(|state| state.each_dependency(visit));
            }
            Self::While { condition, step, state } => {
                condition.each_dependency(visit);
                step.each_dependency(visit);
                state.each_dependency(visit);
            }
            Self::With(captured, _) => captured.iter().for_each(visit),
            Self::After { when, then } | Self::Before { when, then } => {
                when.each_dependency(visit);
                then.each_dependency(visit);
            }
            Self::New { class, data } => {
                class.each_dependency(visit);
                data.each_dependency(visit);
            }
        }
    }
}

impl State {
    /// Call `visit` with every name that must be resolved before this state is (page 01 §3.5).
    pub fn each_dependency<'a>(&'a self, visit: &mut impl FnMut(&'a Id)) {
        match self {
            State::Ref(reference) => reference.each_dependency(visit),
            State::Tuple(items) if self.has_ref() => {
                items.iter().for_each(|item| item.each_dependency(visit));
            }
            State::Map(items) if self.has_ref() => {
                items.values().for_each(|item| item.each_dependency(visit));
            }
            State::Instance(instance) => instance.data().each_dependency(visit),
            _ => {}
        }
    }
}
