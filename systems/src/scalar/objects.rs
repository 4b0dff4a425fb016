//! Classes and instances (protocol page 01 §6).

use std::sync::Arc;

use components::hosting::cluster::Member;
use components::language::cast;
use components::language::class::{Class, Instance};
use components::rows::schema::CollectionKind;
use components::value::native::NativeClass;
use components::{Error, Id, Link, Map, Result, State};

use super::references::{is_literal, native_class};
use super::{Call, Frame, Interpreter, Scope, common, no_member};

/// How many ancestors of a class are searched for a member.
const ANCESTORS_MAX: usize = 32;

/// A class with the given parent and prototype.
///
/// # Errors
/// 400 if a member is not a scalar.
pub(crate) fn define_class(parent: Option<Link>, prototype: Map) -> Result<State> {
    for (name, member) in prototype.iter() {
        let is_collection = matches!(member, State::Ref(reference) if is_literal(reference));
        if is_collection || matches!(member, State::Chain(_) | State::Collection(_)) {
            return Err(Error::bad_request(format_args!(
                "the member {name} of a class must be a scalar, not a {}",
                member.class().path()
            )));
        }
    }
    // `/state/object/class` is how a class without a parent is written.
    let parent = parent.filter(|parent| native_class(parent) != Some(NativeClass::ObjectClass));
    Ok(State::Class(Arc::new(Class::new(parent, prototype)?)))
}

/// A class that extends the native class at a path.
pub(super) fn define(parent: &str, prototype: Map) -> Result<State> {
    define_class(Some(Link::parse(parent)?), prototype)
}

impl Interpreter {
    /// The class that is served at a link, if it is served by this host.
    pub(crate) fn served_class(&self, link: &Link) -> Option<Arc<Class>> {
        if !self.catalog.is_local(link) {
            return None;
        }
        match self.catalog.find(link.path().segments())? {
            (_, cluster, [name]) => match cluster.members.get(name)? {
                Member::Class(class) => Some(class.clone()),
                _ => None,
            },
            _ => None,
        }
    }

    /// A class and its ancestors on this host, nearest first.
    fn lineage(&self, class: &Arc<Class>) -> impl Iterator<Item = Arc<Class>> {
        std::iter::successors(Some(class.clone()), |class| self.served_class(class.parent()?))
            .take(ANCESTORS_MAX)
    }

    /// A member of a class or of an ancestor that this host serves.
    pub(super) fn member(&self, class: &Arc<Class>, name: &Id) -> Option<State> {
        self.lineage(class).find_map(|class| class.prototype().get(name).cloned())
    }

    /// An instance of a class; its data is cast into the native ancestor of the class, if it has one.
    ///
    /// # Errors
    /// 400 if the data cannot be cast.
    pub(crate) fn instance(&self, class: &Arc<Class>, data: State) -> Result<State> {
        let ancestor = self.lineage(class).find_map(|class| class.native_parent());
        let data = match ancestor {
            Some(ancestor) if CollectionKind::from_class(ancestor).is_some() && !data.is_none() => {
                self.collection_of(CollectionKind::from_class(ancestor).expect("a collection"), data)?
            }
            Some(ancestor) if ancestor.is_castable() && !data.is_none() && !data.has_ref() => {
                cast::cast(&data, ancestor)?
            }
            _ => data,
        };
        Ok(State::Instance(Arc::new(Instance::new(class.clone(), data)?)))
    }

    pub(super) async fn route_instance(
        &self,
        instance: &Arc<Instance>,
        path: &[Id],
        call: Call,
        depth: u32,
    ) -> Result<State> {
        let Some((name, rest)) = path.split_first() else {
            if matches!(call, Call::Either) {
                return Ok(State::Instance(instance.clone()));
            }
            return self.route(instance.data().clone(), path, call, depth).await;
        };
        match self.member(instance.class(), name) {
            Some(State::Op(op)) if rest.is_empty() => {
                self.call_op(&op, Some(State::Instance(instance.clone())), None, call, depth).await
            }
            Some(State::Op(_)) => Err(no_member(&State::Instance(instance.clone()), path)),
            Some(attribute) => self.route_attribute(attribute, rest, call, depth).await,
            None => self.route(instance.data().clone(), path, call, depth).await,
        }
    }

    pub(super) async fn route_class(
        &self,
        class: &Arc<Class>,
        path: &[Id],
        call: Call,
        depth: u32,
    ) -> Result<State> {
        let subject = State::Class(class.clone());
        let Some((name, rest)) = path.split_first() else {
            return match call {
                Call::Get(data) => self.instance(class, data),
                Call::Post(data) => self.instance(class, State::Map(data)),
                Call::Either => Ok(subject),
                call => Err(call.not_allowed("a class")),
            };
        };
        match self.member(class, name) {
            Some(State::Op(op)) if rest.is_empty() => self.call_op(&op, None, None, call, depth).await,
            Some(State::Op(_)) => Err(no_member(&subject, path)),
            Some(attribute) => self.route_attribute(attribute, rest, call, depth).await,
            None => common(&subject, path, call),
        }
    }

    /// Call an attribute that is not reached by name: what it refers to must be a link, as there are no names here.
    async fn route_attribute(&self, attribute: State, path: &[Id], call: Call, depth: u32) -> Result<State> {
        let scope = Scope::new(&self.ledger, None);
        let attribute = self.resolve(Frame { scope: &scope, entry: None, depth }, attribute).await?;
        self.route(attribute, path, call, depth).await
    }
}
