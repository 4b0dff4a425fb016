//! The native classes: the paths under `/state` (protocol page 01 §2.1).

use super::name::Link;
use super::number::NumberType;

/// A class that is built into the host.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[allow(missing_docs)] // each variant is named after the last segments of its path
pub enum NativeClass {
    State,
    Map,
    Tuple,
    Closure,
    Stream,
    Class,
    ObjectClass,
    ObjectInstance,
    Chain,
    ChainSync,
    ChainBlock,
    BTree,
    Table,
    Dense,
    Sparse,
    Scalar,
    ScalarMap,
    ScalarTuple,
    Range,
    Cluster,
    Op,
    OpGet,
    OpPut,
    OpPost,
    OpDelete,
    Ref,
    RefAfter,
    RefBefore,
    RefCase,
    RefId,
    RefIf,
    RefNew,
    RefWhile,
    RefWith,
    RefGet,
    RefPut,
    RefPost,
    RefDelete,
    Value,
    None,
    Bytes,
    Id,
    Link,
    String,
    ValueTuple,
    Number(NumberType),
}

/// Every native class but the numbers, with its path.
const PATHS: [(NativeClass, &str); 45] = [
    (NativeClass::State, "/state"),
    (NativeClass::Map, "/state/map"),
    (NativeClass::Tuple, "/state/tuple"),
    (NativeClass::Closure, "/state/closure"),
    (NativeClass::Stream, "/state/stream"),
    (NativeClass::Class, "/state/class"),
    (NativeClass::ObjectClass, "/state/object/class"),
    (NativeClass::ObjectInstance, "/state/object/instance"),
    (NativeClass::Chain, "/state/chain"),
    (NativeClass::ChainSync, "/state/chain/sync"),
    (NativeClass::ChainBlock, "/state/chain/block"),
    (NativeClass::BTree, "/state/collection/btree"),
    (NativeClass::Table, "/state/collection/table"),
    (NativeClass::Dense, "/state/collection/tensor/dense"),
    (NativeClass::Sparse, "/state/collection/tensor/sparse"),
    (NativeClass::Scalar, "/state/scalar"),
    (NativeClass::ScalarMap, "/state/scalar/map"),
    (NativeClass::ScalarTuple, "/state/scalar/tuple"),
    (NativeClass::Range, "/state/scalar/range"),
    (NativeClass::Cluster, "/state/scalar/cluster"),
    (NativeClass::Op, "/state/scalar/op"),
    (NativeClass::OpGet, "/state/scalar/op/get"),
    (NativeClass::OpPut, "/state/scalar/op/put"),
    (NativeClass::OpPost, "/state/scalar/op/post"),
    (NativeClass::OpDelete, "/state/scalar/op/delete"),
    (NativeClass::Ref, "/state/scalar/ref"),
    (NativeClass::RefAfter, "/state/scalar/ref/after"),
    (NativeClass::RefBefore, "/state/scalar/ref/before"),
    (NativeClass::RefCase, "/state/scalar/ref/case"),
    (NativeClass::RefId, "/state/scalar/ref/id"),
    (NativeClass::RefIf, "/state/scalar/ref/if"),
    (NativeClass::RefNew, "/state/scalar/ref/new"),
    (NativeClass::RefWhile, "/state/scalar/ref/while"),
    (NativeClass::RefWith, "/state/scalar/ref/with"),
    (NativeClass::RefGet, "/state/scalar/ref/op/get"),
    (NativeClass::RefPut, "/state/scalar/ref/op/put"),
    (NativeClass::RefPost, "/state/scalar/ref/op/post"),
    (NativeClass::RefDelete, "/state/scalar/ref/op/delete"),
    (NativeClass::Value, "/state/scalar/value"),
    (NativeClass::None, "/state/scalar/value/none"),
    (NativeClass::Bytes, "/state/scalar/value/bytes"),
    (NativeClass::Id, "/state/scalar/value/id"),
    (NativeClass::Link, "/state/scalar/value/link"),
    (NativeClass::String, "/state/scalar/value/string"),
    (NativeClass::ValueTuple, "/state/scalar/value/tuple"),
];

impl NativeClass {
    /// The class at the given path, if there is one.
    pub fn from_path(path: &str) -> Option<Self> {
        if !path.starts_with("/state") {
            return None;
        }
        NumberType::from_path(path)
            .map(Self::Number)
            .or_else(|| PATHS.iter().find(|(_, known)| *known == path).map(|(class, _)| *class))
    }

    /// The path of this class.
    pub fn path(self) -> &'static str {
        match self {
            Self::Number(class) => class.path(),
            _ => PATHS.iter().find(|(class, _)| *class == self).map(|(_, path)| *path).expect("a path"),
        }
    }

    /// The link to this class.
    pub fn link(self) -> Link {
        Link::parse(self.path()).expect("the path of a class")
    }

    /// Whether a GET on this class, or a typed literal of it, casts a state into it.
    pub fn is_castable(self) -> bool {
        matches!(
            self,
            Self::ScalarMap
                | Self::ScalarTuple
                | Self::Range
                | Self::Cluster
                | Self::None
                | Self::Bytes
                | Self::Id
                | Self::Link
                | Self::String
                | Self::ValueTuple
                | Self::Number(_)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_is_found_by_its_path() {
        for (class, path) in PATHS {
            assert_eq!((NativeClass::from_path(path), class.path()), (Some(class), path));
        }
        let int = NativeClass::from_path("/state/scalar/value/number/int/64").unwrap();
        assert_eq!(int, NativeClass::Number(NumberType::I64));
        assert_eq!(NativeClass::from_path("/state/scalar/value/number/int/8"), None);
        assert_eq!(NativeClass::from_path("/app"), None);
    }
}
