//! How streams are consumed (protocol page 02 §6).

use std::sync::Arc;
use std::vec;

use components::language::cast;
use components::language::collection::stream::{Stream, StreamSource};
use components::rows::Row;
use components::{Error, Id, Result, State, Value};

use super::check_parameters;
use super::view::Rows;
use crate::futures::BoxFuture;
use crate::scalar::{Call, Interpreter, common, deeper, no_argument, parameter, parameters};

/// The items of a stream on their way.
pub(crate) enum Items {
    /// Rows, and those of them that are next.
    Rows(Box<Rows>, vec::IntoIter<Row>),
    /// Runs of items, and the item of the last run.
    Aggregate(Box<Items>, Option<Value>),
    /// What an op makes of the items.
    Map(Box<Items>, State),
}

impl Items {
    /// Leave all but the first item: it comes of the first row.
    fn leave_all_but_first(&mut self) {
        match self {
            Items::Rows(rows, _) => rows.limit(1),
            Items::Aggregate(items, _) | Items::Map(items, _) => items.leave_all_but_first(),
        }
    }
}

impl Interpreter {
    /// Begin to consume a stream: it shows what is there at this moment.
    pub(crate) fn open_items<'a>(&'a self, stream: &'a Stream) -> BoxFuture<'a, Result<Items>> {
        Box::pin(async move {
            Ok(match stream.source() {
                StreamSource::Rows(rows) => {
                    Items::Rows(Box::new(self.open_rows(rows).await?), Vec::new().into_iter())
                }
                StreamSource::Aggregate(stream) => {
                    Items::Aggregate(Box::new(self.open_items(stream).await?), None)
                }
                StreamSource::Map(stream, op) => {
                    Items::Map(Box::new(self.open_items(stream).await?), op.clone())
                }
            })
        })
    }

    /// The next item.
    pub(crate) fn next_item<'a>(
        &'a self,
        items: &'a mut Items,
        depth: u32,
    ) -> BoxFuture<'a, Result<Option<State>>> {
        Box::pin(async move {
            match items {
                Items::Rows(rows, next) => {
                    if next.len() == 0 {
                        *next = self.next_rows(rows).await?.unwrap_or_default().into_iter();
                    }
                    Ok(next.next().map(|row| State::Value(Value::Tuple(row))))
                }
                Items::Aggregate(items, last) => {
                    while let Some(item) = self.next_item(items, depth).await? {
                        let value = item.to_value().ok_or_else(|| {
                            Error::bad_request(format_args!(
                                "only values are aggregated, not {}",
                                cast::describe(&item)
                            ))
                        })?;
                        if !last.as_ref().is_some_and(|last| last.collate(&value).is_eq()) {
                            *last = Some(value);
                            return Ok(Some(item));
                        }
                    }
                    Ok(None)
                }
                Items::Map(items, op) => match self.next_item(items, depth).await? {
                    Some(item) => self.apply_item(op, item, deeper(depth)?).await.map(Some),
                    None => Ok(None),
                },
            }
        })
    }

    /// Call a stream.
    pub(crate) async fn route_stream(
        &self,
        stream: &Arc<Stream>,
        path: &[Id],
        call: Call,
        depth: u32,
    ) -> Result<State> {
        let subject = State::Stream(stream.clone());
        let [name] = path else {
            return common(&subject, path, call);
        };
        match name.as_str() {
            "aggregate" => {
                no_argument(name, call)?;
                Ok(State::Stream(Arc::new(Stream::new(StreamSource::Aggregate(stream.clone()))?)))
            }
            "first" => {
                let key = match call.or_get() {
                    Call::Get(key) => key,
                    call => return Err(call.not_allowed(name)),
                };
                let mut items = self.open_items(stream).await?;
                items.leave_all_but_first();
                let first = self.next_item(&mut items, depth).await?.unwrap_or(State::NONE);
                if key.is_none() || first.is_none() {
                    return Ok(first);
                }
                self.route(first, &[], Call::Get(key), depth).await
            }
            "map" => {
                let parameters = parameters(name, call)?;
                let op = self.op_parameter(&parameters, name, &["op"])?;
                Ok(State::Stream(Arc::new(Stream::new(StreamSource::Map(stream.clone(), op))?)))
            }
            "for_each" => {
                let parameters = parameters(name, call)?;
                let op = self.op_parameter(&parameters, name, &["op"])?;
                let mut items = self.open_items(stream).await?;
                while let Some(item) = self.next_item(&mut items, depth).await? {
                    self.apply_item(&op, item, depth).await?;
                }
                Ok(State::NONE)
            }
            "fold" => {
                let parameters = parameters(name, call)?;
                let op = self.op_parameter(&parameters, name, &["op", "value"])?;
                let mut so_far = parameter(&parameters, name, "value")?.clone();
                let mut items = self.open_items(stream).await?;
                while let Some(item) = self.next_item(&mut items, depth).await? {
                    so_far = self.fold_item(&op, so_far, item, depth).await?;
                    if so_far.to_value().is_none() {
                        return Err(Error::bad_request(format_args!(
                            "a fold comes to a value, not to {}",
                            cast::describe(&so_far)
                        )));
                    }
                }
                Ok(so_far)
            }
            _ => common(&subject, path, call),
        }
    }

    fn op_parameter(&self, parameters: &components::Map, method: &Id, known: &[&str]) -> Result<State> {
        check_parameters(parameters, method, known)?;
        match parameter(parameters, method, "op")? {
            op @ (State::Op(_) | State::Closure(_)) => Ok(op.clone()),
            other => Err(Error::bad_request(format_args!("{} is not an op", cast::describe(other)))),
        }
    }
}
