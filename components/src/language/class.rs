//! User-defined classes and their instances (protocol page 01 §6).

use std::sync::Arc;

use super::state::{Extent, Map, State};
use crate::value::error::Result;
use crate::value::name::Link;
use crate::value::native::NativeClass;

/// A user-defined class: a parent and a prototype of methods and attributes.
#[derive(Clone, Debug)]
pub struct Class {
    link: Option<Link>,
    parent: Option<Link>,
    prototype: Map,
    extent: Extent,
}

impl Class {
    /// A class with the given parent, and methods (op definitions) and attributes (anything else) by name.
    ///
    /// # Errors
    /// 400 if the prototype nests too deep.
    pub fn new(parent: Option<Link>, prototype: Map) -> Result<Self> {
        let extent = Extent::of(prototype.values().map(|member| (0, member)))?.opaque();
        Ok(Self { link: None, parent, prototype, extent })
    }

    /// The same class, served at the given link.
    pub fn served_at(self, link: Link) -> Self {
        Self { link: Some(link), ..self }
    }

    /// Where this class is served, if it is.
    pub fn link(&self) -> Option<&Link> {
        self.link.as_ref()
    }

    /// The class that it extends, if any.
    pub fn parent(&self) -> Option<&Link> {
        self.parent.as_ref()
    }

    /// Methods and attributes by name.
    pub fn prototype(&self) -> &Map {
        &self.prototype
    }

    /// The native class at the parent link, if it is one.
    pub fn native_parent(&self) -> Option<NativeClass> {
        let parent = self.parent.as_ref()?;
        if parent.origin().is_some() { None } else { NativeClass::from_path(&parent.path().to_string()) }
    }

    pub(crate) fn extent(&self) -> Extent {
        self.extent
    }
}

/// An instance of a user-defined class.
#[derive(Clone, Debug)]
pub struct Instance {
    class: Arc<Class>,
    data: State,
    extent: Extent,
}

impl Instance {
    /// An instance with the given data.
    ///
    /// # Errors
    /// 400 if the data or the class nests too deep, or both are too large.
    pub fn new(class: Arc<Class>, data: State) -> Result<Self> {
        let own_class = State::Class(class.clone());
        // A class that is served belongs to the catalog; any other may hold instances, and those their classes.
        let held = [Some(&data), Some(&own_class).filter(|_| class.link().is_none())];
        let extent = Extent::of(held.into_iter().flatten().map(|state| (0, state)))?;
        Ok(Self { class, data, extent })
    }

    /// Its class.
    pub fn class(&self) -> &Arc<Class> {
        &self.class
    }

    /// Its data: what native methods act on.
    pub fn data(&self) -> &State {
        &self.data
    }

    pub(crate) fn extent(&self) -> Extent {
        self.extent
    }
}
