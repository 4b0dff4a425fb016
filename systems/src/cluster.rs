//! Routes of a hosted cluster (protocol page 04 §3).

use std::sync::Arc;

use components::hosting::cluster::{Cluster, Member};
use components::language::cast;
use components::language::chain::Chain;
use components::{Error, Id, Path, Result, State, Value};

use crate::dispatch::peers_only;
use crate::scalar::{Call, Interpreter, key_value};

impl Interpreter {
    /// Call a cluster, or what is at a path below it.
    pub(crate) async fn route_cluster(
        &self,
        path: &Path,
        cluster: &Arc<Cluster>,
        rest: &[Id],
        call: Call,
        depth: u32,
    ) -> Result<State> {
        let Some((name, rest)) = rest.split_first() else {
            return self.route_cluster_root(path, cluster, call);
        };
        match cluster.members.get(name) {
            Some(Member::Method(_)) if !rest.is_empty() => {
                Err(Error::not_found(format_args!("the method {path}/{name} has nothing below it")))
            }
            Some(Member::Method(op)) => {
                let this = State::Cluster(path.clone());
                self.call_op(op, Some(this), None, call, depth)
                    .await
                    .map_err(|cause| cause.context(format_args!("in {path}/{name}")))
            }
            Some(Member::Chain(id)) => self.route_hosted_chain(*id, rest, call, depth).await,
            Some(Member::Class(class)) => self.route(State::Class(class.clone()), rest, call, depth).await,
            None if rest.is_empty() => self.route_built_in(path, cluster, name, call),
            None => Err(Error::not_found(format_args!("{path} has no member {name}"))),
        }
    }

    fn route_cluster_root(&self, path: &Path, cluster: &Cluster, call: Call) -> Result<State> {
        match call.or_get() {
            Call::Get(key) if key.is_none() => Ok(Value::Bytes(cluster.public_key.into()).into()),
            Call::Get(key) => {
                let name = key_value(&key)?.to_id()?;
                match cluster.members.get(&name) {
                    Some(Member::Chain(id)) => {
                        let spec = &self.catalog.chains[id];
                        Ok(State::Chain(Chain::Hosted(spec.kind, Arc::new(spec.address.clone()))))
                    }
                    _ => Err(Error::not_found(format_args!("{path} has no chain {name}"))),
                }
            }
            Call::Put(key, State::Value(Value::Link(_))) if key.is_none() => Err(peers_only()),
            Call::Put(..) => Err(Error::bad_request(format_args!("{path} has no entries to set"))),
            Call::Post(parameters) if parameters.is_empty() => Err(peers_only()),
            Call::Post(_) => Err(Error::bad_request(format_args!("{path} is not a method"))),
            // There is nothing to roll back that this caller could have begun.
            Call::Delete(key) if key.is_none() => Ok(State::NONE),
            Call::Delete(_) => Err(Error::bad_request(format_args!("{path} has no entries to delete"))),
            Call::Either => unreachable!("decided above"),
        }
    }

    fn route_built_in(&self, path: &Path, cluster: &Cluster, name: &Id, call: Call) -> Result<State> {
        match (name.as_str(), call.or_get()) {
            ("replicas", Call::Get(key)) if key.is_none() => {
                let origin = Some(self.catalog.origin.clone());
                State::tuple(vec![components::Link::new(origin, path.clone()).into()])
            }
            ("replicas", Call::Get(_)) => Err(Error::not_found("replicas takes no key")),
            ("replicas", Call::Put(..) | Call::Delete(_)) => Err(peers_only()),
            ("authorize", Call::Get(scope)) => Err(Error::unauthorized(format_args!(
                "nothing in this transaction grants {} to {}",
                cast::describe(&scope),
                cluster.link
            ))),
            ("grant", Call::Post(_)) | ("install", Call::Put(..)) => {
                Err(Error::not_implemented(format_args!("{path}/{name}: tokens are not supported yet")))
            }
            ("replicas" | "authorize" | "grant" | "install", call) => {
                Err(call.not_allowed(format_args!("{path}/{name}")))
            }
            _ => Err(Error::not_found(format_args!("{path} has no member {name}"))),
        }
    }
}
