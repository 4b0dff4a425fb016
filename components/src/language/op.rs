//! Op definitions and closures (protocol page 01 §4).

use std::collections::BTreeMap;
use std::sync::Arc;

use super::reference::Verb;
use super::state::{Extent, Map, State};
use crate::value::name::Id;
use crate::value::native::NativeClass;

/// A context: named states, of which the last is the result (page 01 §4.1).
pub type Body = Arc<[(Id, State)]>;

/// A user-defined op (page 01 §4.2).
#[derive(Clone, Debug)]
pub enum OpDef {
    /// Called with a key.
    Get {
        /// The name of the key in the body.
        key: Id,
        /// What to run.
        body: Body,
    },
    /// Called with a key and a value.
    Put {
        /// The name of the key in the body.
        key: Id,
        /// The name of the value in the body.
        value: Id,
        /// What to run.
        body: Body,
    },
    /// Called with named parameters.
    Post {
        /// What to run.
        body: Body,
    },
    /// Called with a key.
    Delete {
        /// The name of the key in the body.
        key: Id,
        /// What to run.
        body: Body,
    },
}

impl OpDef {
    /// The verb that this op answers.
    pub fn verb(&self) -> Verb {
        match self {
            Self::Get { .. } => Verb::Get,
            Self::Put { .. } => Verb::Put,
            Self::Post { .. } => Verb::Post,
            Self::Delete { .. } => Verb::Delete,
        }
    }

    /// The context that this op runs.
    pub fn body(&self) -> &Body {
        match self {
            Self::Get { body, .. }
            | Self::Put { body, .. }
            | Self::Post { body }
            | Self::Delete { body, .. } => body,
        }
    }

    /// The native class of this op.
    pub fn class(&self) -> NativeClass {
        match self {
            Self::Get { .. } => NativeClass::OpGet,
            Self::Put { .. } => NativeClass::OpPut,
            Self::Post { .. } => NativeClass::OpPost,
            Self::Delete { .. } => NativeClass::OpDelete,
        }
    }
}

/// An op with copies of the states that it captured (page 01 §4.4).
#[derive(Clone, Debug)]
pub struct Closure {
    captured: Map,
    this: Option<State>,
    op: Arc<OpDef>,
    extent: Extent,
}

impl Closure {
    /// A closure; a captured `self` becomes the `$self` of the op.
    ///
    /// # Errors
    /// 400 if what is captured nests too deep or is too large.
    pub fn new(mut captured: BTreeMap<Id, State>, op: Arc<OpDef>) -> crate::Result<Self> {
        let this = captured.remove("self");
        let extent = Extent::of(captured.values().chain(&this).map(|state| (0, state)))?.opaque();
        Ok(Self { captured: Map::new(captured)?, this, op, extent })
    }

    /// The captured states by name, `self` excepted.
    pub fn captured(&self) -> &Map {
        &self.captured
    }

    /// The instance that `$self` is in the body, if it was captured.
    pub fn this(&self) -> Option<&State> {
        self.this.as_ref()
    }

    /// The op.
    pub fn op(&self) -> &Arc<OpDef> {
        &self.op
    }

    pub(crate) fn extent(&self) -> Extent {
        self.extent
    }
}
