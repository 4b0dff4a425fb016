//! Concurrency inside one program, without an executor: the world polls a program, the program polls its parts, in
//! order, so the same inputs give the same outputs on any number of threads.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

use components::Result;

/// A part of a program.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// How many parts of one join are under way at a time. More would only hold more memory.
const WINDOW: usize = 256;

/// Run all of them concurrently, and give their results in order, or the first error.
pub async fn join<'a, T: Send + 'a>(
    futures: impl Iterator<Item = BoxFuture<'a, Result<T>>> + Send,
) -> Result<Vec<T>> {
    let mut waiting = futures.enumerate();
    let mut running: VecDeque<(usize, BoxFuture<'a, Result<T>>)> = VecDeque::new();
    let mut done: Vec<Option<T>> = Vec::with_capacity(waiting.size_hint().0);
    poll_fn(|context| {
        let mut error = None;
        running.retain_mut(|(i, future)| match future.as_mut().poll(context) {
            Poll::Ready(Ok(item)) => {
                done[*i] = Some(item);
                false
            }
            Poll::Ready(Err(cause)) => {
                error.get_or_insert(cause);
                false
            }
            Poll::Pending => true,
        });
        while error.is_none() && running.len() < WINDOW {
            let Some((i, mut future)) = waiting.next() else {
                break;
            };
            done.push(None);
            match future.as_mut().poll(context) {
                Poll::Ready(Ok(item)) => done[i] = Some(item),
                Poll::Ready(Err(cause)) => error = Some(cause),
                Poll::Pending => running.push_back((i, future)),
            }
        }
        match error {
            Some(cause) => Poll::Ready(Err(cause)),
            None if running.is_empty() => {
                Poll::Ready(Ok(done.drain(..).map(|item| item.expect("every part is done")).collect()))
            }
            None => Poll::Pending,
        }
    })
    .await
}
