//! Chains as literals and as they are stored (protocol page 04 §4.1, §4.6).

use std::sync::Arc;

use super::{Decoder, NAME_LITERAL, is_subject, key, state};
use crate::cast;
use crate::chain::{Block, Chain, ChainKind, LocalChain, Mutation};
use crate::collection::schema::{CollectionKind, Schema};
use crate::collection::{Collection, Source};
use crate::document::Document;
use crate::error::{Error, Result};
use crate::name::{Id, Link, Path};
use crate::native::NativeClass;
use crate::state::State;
use crate::transaction_id::TxnId;
use crate::value::Value;

/// A chain that is not hosted: `[schema]`, `[schema, subject]` or `[schema, [block, …]]` (page 04 §4.1).
pub(super) fn chain(class: NativeClass, content: Document) -> Result<State> {
    let kind = ChainKind::from_class(class).expect("a chain class");
    if let Document::List([schema, ..]) = content
        && has_collection(&chain_subject(*schema)?)
    {
        return Err(Error::not_implemented(
            "a chain around a collection that is not hosted is not supported yet",
        ));
    }
    let chain = match (kind, content) {
        (_, Document::List([schema])) => LocalChain::new(kind, chain_subject(*schema)?),
        (ChainKind::Sync, Document::List([schema, subject])) => {
            LocalChain::with_subject(chain_subject(*schema)?, chain_content(*subject)?)
        }
        (ChainKind::Block, Document::List([schema, Document::List(blocks)])) => {
            let blocks = blocks.iter().map(|one| block(*one)).collect::<Result<_>>()?;
            LocalChain::with_history(chain_subject(*schema)?, blocks)?
        }
        (ChainKind::Block, Document::List([_, other])) => {
            return Err(Error::bad_request(format_args!(
                "a history is a list of blocks, not {}",
                other.kind()
            )));
        }
        _ => {
            return Err(Error::bad_request(format_args!(
                "a {} is a list of a schema and its content",
                class.path()
            )));
        }
    };
    Ok(State::Chain(Chain::Local(Arc::new(chain))))
}

/// The declared subject of a chain: a collection, a tuple of collections, or a value as its initial value (page 04
/// §4.1, §4.6).
///
/// # Errors
/// 400 if it cannot be stored; 501 if it is a tensor.
pub fn chain_subject(document: Document) -> Result<State> {
    if let Some(collection) = declared_collection(document)? {
        return Ok(collection);
    }
    if let Document::List(items) = document {
        let declared = items.iter().map(|item| declared_collection(*item)).collect::<Result<Vec<_>>>()?;
        if declared.iter().any(Option::is_some) {
            let all = declared.into_iter().collect::<Option<Vec<State>>>();
            let all = all.ok_or_else(|| {
                Error::bad_request("the subject of a chain is made of collections or of values, not of both")
            })?;
            return State::tuple(all);
        }
    }
    crate::chain::initial(&chain_content(document)?)
}

fn has_collection(subject: &State) -> bool {
    match subject {
        State::Collection(_) => true,
        State::Tuple(items) => items.iter().any(has_collection),
        _ => false,
    }
}

/// The declaration of an empty collection, `{"<class>": [schema]}`, if it is one.
fn declared_collection(document: Document) -> Result<Option<State>> {
    let Document::Map([(class, content)]) = document else { return Ok(None) };
    let kind = match NativeClass::from_path(class) {
        Some(NativeClass::BTree) => CollectionKind::BTree,
        Some(NativeClass::Table) => CollectionKind::Table,
        _ if class.starts_with("/state/collection") => {
            return Err(Error::not_implemented(format_args!(
                "a chain around a {class} is not supported yet"
            )));
        }
        _ => return Ok(None),
    };
    let Document::List([schema]) = content else {
        return Err(Error::bad_request(format_args!("a {class} is declared as {{{class:?}: [schema]}}")));
    };
    let schema = Schema::declared(kind, &Decoder::SCALAR.decode(*schema)?)?;
    Ok(Some(State::Collection(Collection { schema: schema.into(), source: Source::Declared })))
}

/// What a chain around a value holds, or once held.
fn chain_content(document: Document) -> Result<State> {
    if declared_collection(document).is_ok_and(|found| found.is_some()) {
        return Err(Error::not_implemented(
            "a chain around a collection that is not hosted is not supported yet",
        ));
    }
    let subject = state(document)?;
    if subject.has_ref() {
        return Err(Error::bad_request("the subject of a chain must not contain a reference"));
    }
    crate::chain::stored(&subject)
}

fn block(document: Document) -> Result<Block> {
    let malformed = || Error::bad_request("a block is [<previous hash>, {<transaction id>: [mutation, …]}]");
    let Document::List([previous, Document::Map(transactions)]) = document else {
        return Err(malformed());
    };
    let previous = match previous {
        Document::String(text) if text.ends_with('=') => cast::base64(text)?.to_vec(),
        Document::String(text) => hex::decode(text).map_err(Error::bad_request)?,
        Document::Bytes(bytes) => bytes.to_vec(),
        _ => return Err(malformed()),
    };
    let transactions = transactions
        .iter()
        .map(|(id, mutations)| {
            let Document::List(mutations) = mutations else {
                return Err(malformed());
            };
            let mutations = mutations.iter().map(|one| mutation(*one)).collect::<Result<_>>()?;
            Ok((id.parse()?, mutations))
        })
        .collect::<Result<Vec<(TxnId, Vec<Mutation>)>>>()?;
    if !transactions.is_sorted_by(|(this, _), (next, _)| this < next) {
        return Err(Error::bad_request("the transaction ids of a block must ascend"));
    }
    Ok(Block { previous, transactions })
}

fn mutation(document: Document) -> Result<Mutation> {
    match document {
        Document::List([Document::String(path), key_document, value]) => {
            Mutation::put(Path::parse(path)?, &key(*key_document)?, &chain_content(*value)?)
        }
        Document::List([Document::String(path), key_document]) => {
            Ok(Mutation::delete(Path::parse(path)?, &key(*key_document)?))
        }
        _ => Err(Error::bad_request("a mutation is [path, key, value] or [path, key]")),
    }
}

/// Decode what [`crate::encode::Stored`] wrote.
///
/// # Errors
/// 400 if it wrote no such thing.
pub fn stored(document: Document) -> Result<State> {
    match document {
        Document::List(items) => State::tuple(items.iter().map(|item| stored(*item)).collect::<Result<_>>()?),
        Document::Map([(NAME_LITERAL, Document::String(text))]) => Ok(Value::Id(Id::parse(text)?).into()),
        Document::Map([(text, Document::List([]))]) if is_subject(text) => Ok(Link::parse(text)?.into()),
        Document::Map([(text, content)]) if is_subject(text) => {
            if let Some(collection) = declared_collection(document)? {
                return Ok(collection);
            }
            let class = NativeClass::from_path(text)
                .filter(|class| matches!(class, NativeClass::Number(_)))
                .ok_or_else(|| Error::bad_request(format_args!("{text} is not stored in chains")))?;
            cast::cast(&stored(*content)?, class)
        }
        Document::Map(entries) => State::map(
            entries
                .iter()
                .map(|(name, item)| Ok((Id::parse(name)?, stored(*item)?)))
                .collect::<Result<_>>()?,
        ),
        leaf => Decoder::SCALAR.decode(leaf),
    }
}

/// Decode what [`crate::encode::StoredMutations`] wrote.
///
/// # Errors
/// 400 if it wrote no such thing.
pub fn stored_mutations(document: Document) -> Result<Vec<Mutation>> {
    let malformed = || Error::bad_request("this is not a list of mutations");
    let Document::List(mutations) = document else {
        return Err(malformed());
    };
    let stored_key = |key: &Document| stored(*key)?.to_value().ok_or_else(malformed);
    mutations
        .iter()
        .map(|mutation| match mutation {
            Document::List([Document::String(path), key, value]) => {
                Ok(Mutation::Put { path: Path::parse(path)?, key: stored_key(key)?, value: stored(*value)? })
            }
            Document::List([Document::String(path), key]) => {
                Ok(Mutation::Delete { path: Path::parse(path)?, key: stored_key(key)? })
            }
            _ => Err(malformed()),
        })
        .collect()
}
