//! Hosted clusters: their configuration and members (protocol page 04 §1.4, §3).

mod unawaited;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::language::chain::{ChainAddress, ChainKind};
use crate::language::class::Class;
use crate::language::decode;
use crate::language::op::OpDef;
use crate::language::reference::{OpRef, Ref, Subject};
use crate::language::state::{Map, State};
use crate::rows::schema::Schema;
use crate::value::document::Document;
use crate::value::error::{Error, Result};
use crate::value::ids::ChainId;
use crate::value::name::{Id, Link, Path, is_reserved};
use crate::value::native::NativeClass;

pub use unawaited::UnawaitedWrite;

/// Names that a member may not have: they are routes of every cluster.
pub const BUILT_IN_ROUTES: [&str; 5] = ["authorize", "grant", "install", "replicas", "schema"];

/// A chain as a configuration declares it.
#[derive(Clone, Debug)]
pub struct ChainSpec {
    /// Where it is served.
    pub address: ChainAddress,
    /// Which history it keeps.
    pub kind: ChainKind,
    /// Its initial value, or the declaration of its collections.
    pub schema: State,
}

impl ChainSpec {
    /// The schemas of the collections that are its subject, in order; none if that is a value.
    pub fn collections(&self) -> Vec<Arc<Schema>> {
        match &self.schema {
            State::Collection(collection) => vec![collection.schema.clone()],
            State::Tuple(items) => items
                .iter()
                .filter_map(|item| match item {
                    State::Collection(collection) => Some(collection.schema.clone()),
                    _ => None,
                })
                .collect(),
            _ => Vec::new(),
        }
    }
}

/// A member of a cluster.
#[derive(Clone, Debug)]
pub enum Member {
    /// Persistent state.
    Chain(ChainId),
    /// An op, called with `$self` as the cluster.
    Method(Arc<OpDef>),
    /// A class that is served to others.
    Class(Arc<Class>),
}

/// A hosted cluster.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Where it is canonically served.
    pub link: Link,
    /// Its members by name.
    pub members: BTreeMap<Id, Member>,
    /// The Ed25519 key that its tokens are checked with.
    pub public_key: [u8; 32],
}

/// A decoded configuration file entry, before its chains have numbers.
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    /// Where the cluster is canonically served.
    pub link: Link,
    /// The path at which this host serves it.
    pub path: Path,
    members: BTreeMap<Id, MemberConfig>,
}

#[derive(Clone, Debug)]
enum MemberConfig {
    Chain(ChainKind, State),
    Method(Arc<OpDef>),
    Class(Class),
}

impl ClusterConfig {
    /// Decode a configuration file: an object with one entry per cluster.
    ///
    /// # Errors
    /// 400 that says which member of which cluster is wrong.
    pub fn decode(document: Document) -> Result<Vec<Self>> {
        let Document::Map(clusters) = document else {
            return Err(Error::bad_request(format_args!(
                "a configuration is an object {{<link>: {{<member>: …}}}}, not {}",
                document.kind()
            )));
        };
        if clusters.is_empty() {
            return Err(Error::bad_request("there is no cluster in this configuration"));
        }
        clusters
            .iter()
            .map(|(link, members)| {
                Self::decode_cluster(link, *members)
                    .map_err(|error| error.context(format_args!("cluster {link}")))
            })
            .collect()
    }

    fn decode_cluster(link: &str, document: Document) -> Result<Self> {
        let link = Link::parse(link)?;
        let path = link.path().clone();
        let Some(first) = path.segments().first() else {
            return Err(Error::bad_request("a cluster cannot be served at /"));
        };
        if is_reserved(first.as_str()) {
            return Err(Error::bad_request(format_args!("the path segment {first} is reserved")));
        }
        let Document::Map(entries) = document else {
            return Err(Error::bad_request(format_args!(
                "the members of a cluster are an object, not {}",
                document.kind()
            )));
        };
        let mut members = BTreeMap::new();
        for (name, member) in entries {
            let name = Id::parse(name)?;
            if BUILT_IN_ROUTES.contains(&name.as_str()) {
                return Err(Error::bad_request(format_args!(
                    "a member cannot be called {name}: every cluster has a route of that name"
                )));
            }
            let member = MemberConfig::decode(*member, &link, &name)
                .map_err(|error| error.context(format_args!("member {name}")))?;
            if members.insert(name.clone(), member).is_some() {
                return Err(Error::bad_request(format_args!("the member {name} occurs twice")));
            }
        }
        Ok(Self { link, path, members })
    }

    /// The chains of this cluster, in order of name.
    pub fn chains(&self) -> impl Iterator<Item = ChainSpec> + '_ {
        self.members.iter().filter_map(|(name, member)| match member {
            MemberConfig::Chain(kind, schema) => Some(ChainSpec {
                address: ChainAddress { cluster: self.path.clone(), name: name.clone() },
                kind: *kind,
                schema: schema.clone(),
            }),
            _ => None,
        })
    }
}

impl MemberConfig {
    fn decode(document: Document, cluster: &Link, name: &Id) -> Result<Self> {
        if let Document::Map([(path, content)]) = document
            && let Some(class) = NativeClass::from_path(path)
        {
            if let Some(kind) = ChainKind::from_class(class) {
                return match content {
                    Document::List([subject]) => Ok(Self::Chain(kind, decode::chain_subject(*subject)?)),
                    Document::List([_, _]) => {
                        Err(Error::not_implemented("options of a chain are not supported yet"))
                    }
                    _ => Err(Error::bad_request(format_args!(
                        "a {path} is declared as {{{path:?}: [subject]}}"
                    ))),
                };
            }
            if path.starts_with("/state/chain") {
                return Err(Error::not_implemented(format_args!("a {path} is not supported yet")));
            }
            if matches!(content, Document::Map([])) {
                return Self::class(Link::parse(path)?, Map::empty(), cluster, name);
            }
        }
        match decode::scalar(document)? {
            State::Op(op) => Ok(Self::Method(op)),
            State::Ref(reference) => match &*reference {
                Ref::Op(OpRef::Post(Subject::Link(parent), prototype)) => {
                    Self::class(parent.clone(), prototype.clone(), cluster, name)
                }
                Ref::Op(OpRef::Call(Subject::Link(parent))) => {
                    Self::class(parent.clone(), Map::empty(), cluster, name)
                }
                _ => Err(Self::unknown()),
            },
            State::Class(class) => Ok(Self::Class((*class).clone().served_at(cluster.append(name.clone())))),
            _ => Err(Self::unknown()),
        }
    }

    fn class(parent: Link, prototype: Map, cluster: &Link, name: &Id) -> Result<Self> {
        Ok(Self::Class(Class::new(Some(parent), prototype)?.served_at(cluster.append(name.clone()))))
    }

    fn unknown() -> Error {
        Error::bad_request("a member of a cluster is a chain, a method or a class")
    }
}

/// Everything that this host serves. It does not change while the host runs.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    /// Clusters by path.
    pub clusters: BTreeMap<Path, Arc<Cluster>>,
    /// Chains by number.
    pub chains: BTreeMap<ChainId, ChainSpec>,
    /// Chains that are not served, and why: what is stored of them does not verify.
    pub refused: BTreeMap<ChainId, Arc<str>>,
    /// `http://<address>:<port>` of this host.
    pub origin: Arc<str>,
    /// The Ed25519 key that the tokens of this host are checked with.
    pub public_key: [u8; 32],
}

impl Catalog {
    /// A host at the given origin that serves nothing yet.
    pub fn new(origin: &str, public_key: [u8; 32]) -> Self {
        Self { origin: origin.into(), public_key, ..Default::default() }
    }

    /// Check that a chain is served.
    ///
    /// # Errors
    /// 503 that names the chain and says why it is not.
    pub fn check_served(&self, chain: ChainId) -> Result<()> {
        match self.refused.get(&chain) {
            None => Ok(()),
            Some(why) => {
                let address = &self.chains[&chain].address;
                Err(Error::unavailable(format_args!("the chain {address} is refused: {why}")))
            }
        }
    }

    /// Serve a cluster; `number` gives each of its chains its number.
    ///
    /// # Errors
    /// 400 if there is a cluster at this path already.
    pub fn add(
        &mut self,
        config: ClusterConfig,
        public_key: [u8; 32],
        mut number: impl FnMut(&ChainAddress) -> ChainId,
    ) -> Result<()> {
        for spec in config.chains() {
            self.chains.insert(number(&spec.address), spec);
        }
        let members = config
            .members
            .into_iter()
            .map(|(name, member)| {
                let member = match member {
                    MemberConfig::Chain(..) => Member::Chain(number(&ChainAddress {
                        cluster: config.path.clone(),
                        name: name.clone(),
                    })),
                    MemberConfig::Method(op) => Member::Method(op),
                    MemberConfig::Class(class) => Member::Class(Arc::new(class)),
                };
                (name, member)
            })
            .collect();
        let cluster = Arc::new(Cluster { link: config.link, members, public_key });
        match self.clusters.insert(config.path.clone(), cluster) {
            None => Ok(()),
            Some(_) => Err(Error::bad_request(format_args!("there are two clusters at {}", config.path))),
        }
    }

    /// The cluster at the longest hosted prefix of a path, and the rest of the path.
    pub fn find<'a, 'p>(&'a self, path: &'p [Id]) -> Option<(&'a Path, &'a Arc<Cluster>, &'p [Id])> {
        (1..=path.len())
            .rev()
            .find_map(|len| {
                let (path, cluster) = self.clusters.get_key_value(&path[..len])?;
                Some((path, cluster, len))
            })
            .map(|(found, cluster, len)| (found, cluster, &path[len..]))
    }

    /// The first cluster that is canonically served by another host, which `is_own` decides by the origin of its link.
    pub fn elsewhere(&self, mut is_own: impl FnMut(&str) -> bool) -> Option<&Link> {
        let mut links = self.clusters.values().map(|cluster| &cluster.link);
        links.find(|link| link.origin().is_some_and(|origin| !is_own(origin)))
    }

    /// Whether a link leads to this host.
    pub fn is_local(&self, link: &Link) -> bool {
        match link.origin() {
            None => true,
            Some(origin) if *origin == *self.origin => true,
            // The canonical link of a cluster that is served here needs no other host.
            Some(_) => self
                .find(link.path().segments())
                .is_some_and(|(_, cluster, _)| cluster.link.origin() == link.origin()),
        }
    }
}
