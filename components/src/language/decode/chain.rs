//! Chains as literals and as they are stored (protocol page 04 §4.1, §4.6).

use std::sync::Arc;

use bumpalo::Bump;

use super::{Decoder, NAME_LITERAL, is_subject, state};
use crate::language::chain::{Block, Mutation};
use crate::language::collection::{Collection, CollectionContent, Source, value_of};
use crate::language::reference::{OpRef, Ref, Subject};
use crate::language::state::State;
use crate::language::{cast, tbon};
use crate::rows::schema::{CollectionKind, Schema};
use crate::rows::{Row, row_bytes};
use crate::value::Value;
use crate::value::cast::base64;
use crate::value::document::Document;
use crate::value::error::{Error, Result};
use crate::value::name::{Id, Link, Path};
use crate::value::native::NativeClass;
use crate::value::transaction_id::TxnId;

/// A chain that is not hosted: `[schema]`, `[schema, subject]` or `[schema, [block, …]]` (page 04 §4.1). It is a
/// reference, made anew wherever it is resolved, so that no program sees what another one has written.
pub(super) fn chain(class: NativeClass, content: Document) -> Result<State> {
    let on = Subject::Link(class.link());
    let reference = match content {
        Document::List([schema]) => OpRef::Get(on, chain_subject(*schema)?),
        Document::List([schema, content]) => OpRef::Put(on, chain_subject(*schema)?, state(*content)?),
        _ => {
            return Err(Error::bad_request(format_args!(
                "a {} is a list of a schema and its content",
                class.path()
            )));
        }
    };
    Ok(Ref::Op(reference).into())
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
    let value = state(document)?;
    if value.has_ref() {
        return Err(Error::bad_request("the declared subject of a chain must not contain a reference"));
    }
    crate::language::chain::initial(&value)
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

/// The blocks that a resolved state shows (page 04 §4.1); the values of the mutations are as they were given.
///
/// # Errors
/// 400 that says what is no block.
pub fn history(state: &State) -> Result<Vec<Block>> {
    let blocks = state.to_tuple().ok_or_else(|| {
        Error::bad_request(format_args!("a history is a list of blocks, not {}", cast::describe(state)))
    })?;
    blocks.iter().map(block).collect()
}

fn block(state: &State) -> Result<Block> {
    let malformed = || Error::bad_request("a block is [<previous hash>, {<transaction id>: [mutation, …]}]");
    let parts = state.to_tuple().ok_or_else(malformed)?;
    let [previous, transactions] = &*parts else { return Err(malformed()) };
    let previous = match previous {
        State::Value(Value::String(text)) if text.ends_with('=') => base64(text)?.to_vec(),
        State::Value(Value::String(text)) => hex::decode(&**text).map_err(Error::bad_request)?,
        State::Value(Value::Bytes(bytes)) => bytes.to_vec(),
        _ => return Err(malformed()),
    };
    let mut transactions = transactions
        .as_map()
        .ok_or_else(malformed)?
        .iter()
        .map(|(id, mutations)| {
            let mutations = mutations.to_tuple().ok_or_else(malformed)?;
            Ok((id.as_str().parse()?, mutations.iter().map(mutation).collect::<Result<_>>()?))
        })
        .collect::<Result<Vec<(TxnId, Vec<Mutation>)>>>()?;
    // As text, 10 comes before 9.
    transactions.sort_by_key(|(id, _)| *id);
    if !transactions.is_sorted_by(|(this, _), (next, _)| this < next) {
        return Err(Error::bad_request("a transaction id occurs twice in a block"));
    }
    Ok(Block { previous, transactions })
}

fn mutation(state: &State) -> Result<Mutation> {
    let malformed = || Error::bad_request("a mutation is [path, key, value] or [path, key]");
    let parts = state.to_tuple().ok_or_else(malformed)?;
    let (path, key, value) = match &*parts {
        [path, key] => (path, key, None),
        [path, key, value] => (path, key, Some(value)),
        _ => return Err(malformed()),
    };
    let State::Value(Value::String(path)) = path else { return Err(malformed()) };
    let (path, key) = (Path::parse(path)?, value_of(key)?);
    Ok(match value {
        Some(value) => Mutation::Put { path, key, value: value.clone() },
        None => Mutation::Delete { path, key },
    })
}

/// Decode what [`crate::language::encode::Stored`] wrote.
///
/// # Errors
/// 400 if it wrote no such thing.
pub fn stored(document: Document) -> Result<State> {
    match document {
        Document::List(items) => {
            Ok(State::stored_tuple(items.iter().map(|item| stored(*item)).collect::<Result<_>>()?))
        }
        Document::Map([(NAME_LITERAL, Document::String(text))]) => Ok(Value::Id(Id::parse(text)?).into()),
        Document::Map([(text, Document::List([]))]) if is_subject(text) => {
            Ok(Link::parse_stored(text)?.into())
        }
        Document::Map([(text, content)]) if is_subject(text) => {
            if let Document::List([schema, Document::List(rows)]) = content
                && let Some(kind) = NativeClass::from_path(text).and_then(CollectionKind::from_class)
            {
                return stored_content(kind, *schema, rows);
            }
            if let Some(collection) = declared_collection(document)? {
                return Ok(collection);
            }
            let class = NativeClass::from_path(text)
                .filter(|class| matches!(class, NativeClass::Number(_)))
                .ok_or_else(|| Error::bad_request(format_args!("{text} is not stored in chains")))?;
            cast::cast(&stored(*content)?, class)
        }
        Document::Map(entries) => Ok(State::stored_map(
            entries
                .iter()
                .map(|(name, item)| Ok((Id::parse(name)?, stored(*item)?)))
                .collect::<Result<_>>()?,
        )),
        leaf => Decoder::SCALAR.decode(leaf),
    }
}

/// The rows of a collection that a mutation has written.
fn stored_content(kind: CollectionKind, schema: Document, rows: &[Document]) -> Result<State> {
    let schema = Arc::new(Schema::declared(kind, &Decoder::SCALAR.decode(schema)?)?);
    let row = |row: &Document| match stored(*row)?.to_value() {
        Some(Value::Tuple(values)) => Ok(values),
        _ => Err(Error::bad_request("a stored row is a list of values")),
    };
    let rows = rows.iter().map(row).collect::<Result<Vec<Row>>>()?;
    let bytes = rows.iter().map(|row| row_bytes(row)).sum();
    let columns = schema.columns().clone();
    Ok(State::Content(Arc::new(CollectionContent { schema, columns, is_list: false, rows, bytes })))
}

/// Read a list of what [`crate::language::encode::StoredMutation`] wrote.
///
/// # Errors
/// 400 if it wrote no such thing.
pub fn stored_mutations(bytes: &[u8]) -> Result<Vec<Mutation>> {
    let mut mutations = Vec::new();
    each_stored_mutation(bytes, |mutation| {
        mutations.push(mutation);
        Ok(())
    })?;
    Ok(mutations)
}

/// Visit each item of a list of what [`crate::language::encode::StoredMutation`] wrote, one after the other.
///
/// # Errors
/// 400 if it wrote no such thing; the errors of `visit`.
pub fn each_stored_mutation(bytes: &[u8], mut visit: impl FnMut(Mutation) -> Result<()>) -> Result<()> {
    let mut items = tbon::Items::of(bytes)?;
    let mut arena = Bump::new();
    while let Some(item) = items.next(bytes, &arena)? {
        visit(stored_mutation(item)?)?;
        arena.reset();
    }
    Ok(())
}

/// Decode one of them.
///
/// # Errors
/// 400 if it is none.
pub fn stored_mutation(document: Document) -> Result<Mutation> {
    let malformed = || Error::bad_request("this is not a mutation");
    let stored_key = |key: &Document| stored(*key)?.to_value().ok_or_else(malformed);
    match document {
        Document::List([Document::String(path), key, value]) => Ok(Mutation::Put {
            path: Path::parse_stored(path)?,
            key: stored_key(key)?,
            value: stored(*value)?,
        }),
        Document::List([Document::String(path), key]) => {
            Ok(Mutation::Delete { path: Path::parse_stored(path)?, key: stored_key(key)? })
        }
        _ => Err(malformed()),
    }
}
