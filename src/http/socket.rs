//! The socket of one connection, with two timeouts that hyper lacks: for an incomplete head, and for an answer that the
//! client does not read. A timer starts only when a read or a write has to wait; until then the timeouts cost a few
//! flags.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;

use crate::config;

/// State that a connection's socket and its requests share. Both run in the same task.
#[derive(Default)]
pub struct Pace {
    /// A request's head is complete, and its answer is not.
    is_answering: AtomicBool,
    /// Bytes of a new head have arrived since the last head was complete.
    head_has_begun: AtomicBool,
    /// The last bytes that were read end like a head.
    head_has_ended: AtomicBool,
    /// The client does not read the written bytes.
    is_blocked: AtomicBool,
    drained: Notify,
}

/// Exists from a complete head to the end of its answer, or of the connection.
pub struct Answering<'a>(&'a Pace);

impl Pace {
    /// Call this when a head is complete. Waits until the client has read earlier answers: otherwise a client that
    /// sends requests and reads nothing would fill the memory.
    pub async fn begin(&self, has_body: bool) -> Answering<'_> {
        // If the request has no body, further bytes belong to the next head.
        let begins_another = !has_body && !self.head_has_ended.load(Relaxed);
        self.head_has_begun.store(begins_another, Relaxed);
        self.is_answering.store(true, Relaxed);
        let answering = Answering(self);
        while self.is_blocked.load(Relaxed) {
            self.drained.notified().await;
        }
        answering
    }
}

impl Drop for Answering<'_> {
    fn drop(&mut self) {
        self.0.is_answering.store(false, Relaxed);
    }
}

pub struct PacedStream {
    stream: TcpStream,
    pace: Arc<Pace>,
    head: Patience,
    body: Patience,
    answer: Patience,
    stop: CancellationToken,
}

impl PacedStream {
    pub fn new(stream: TcpStream, pace: Arc<Pace>, stop: CancellationToken) -> Self {
        let head = Patience::new(config::HTTP_HEAD_TIMEOUT, "the request's head was not complete in time");
        let body = Patience::new(config::HTTP_BODY_TIMEOUT, "the body was not complete in time");
        let answer = Patience::new(config::HTTP_WRITE_TIMEOUT, "the client does not take its answer");
        Self { stream, pace, head, body, answer, stop }
    }

    fn written(&mut self, outcome: Poll<io::Result<usize>>, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if outcome.is_pending() {
            self.pace.is_blocked.store(true, Relaxed);
            return self.answer.poll(cx, &self.stop).map(Err);
        }
        outcome
    }
}

impl AsyncRead for PacedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let had = buffer.filled().len();
        let outcome = Pin::new(&mut this.stream).poll_read(cx, buffer);
        if this.pace.is_answering.load(Relaxed) {
            // A body: `request` has the deadline. Here only a stop shortens it.
            if outcome.is_pending() && this.stop.is_cancelled() {
                return this.body.poll(cx, &this.stop).map(Err);
            }
            return outcome;
        }
        let read = &buffer.filled()[had..];
        if !read.is_empty() {
            let has_ended = read.ends_with(b"\n\r\n") || read.ends_with(b"\n\n");
            this.pace.head_has_ended.store(has_ended, Relaxed);
            if !this.pace.head_has_begun.swap(true, Relaxed) {
                this.head.end();
            }
        }
        if outcome.is_ready() {
            return outcome;
        }
        if this.pace.head_has_begun.load(Relaxed) {
            return this.head.poll(cx, &this.stop).map(Err);
        }
        this.head.end();
        Poll::Pending
    }
}

impl AsyncWrite for PacedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.written(outcome, cx)
    }

    /// hyper flushes the socket when its own buffer is empty.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        if self.pace.is_blocked.swap(false, Relaxed) {
            self.answer.end();
            self.pace.drained.notify_one();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A deadline for one action of the client. The time starts when the client first makes the server wait.
struct Patience {
    limit: Duration,
    /// The error when the deadline has passed.
    what: &'static str,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    const fn new(limit: Duration, what: &'static str) -> Self {
        Self { limit, what, timer: None }
    }

    /// Ready, with the error, after the deadline. A stop shortens the deadline.
    fn poll(&mut self, cx: &mut Context<'_>, stop: &CancellationToken) -> Poll<io::Error> {
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(self.limit)));
        if stop.is_cancelled() {
            let last = Instant::now() + config::SHUTDOWN_CLIENT_GRACE;
            if timer.deadline() > last {
                timer.as_mut().reset(last);
            }
        }
        timer.as_mut().poll(cx).map(|()| io::Error::new(io::ErrorKind::TimedOut, self.what))
    }

    fn end(&mut self) {
        self.timer = None;
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;

    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, TcpSocket};

    use super::*;

    async fn is_pending<T>(future: Pin<&mut impl Future<Output = T>>) -> bool {
        let mut future = future;
        poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx).is_pending())).await
    }

    #[tokio::test]
    async fn no_request_is_begun_before_the_last_answer_is_taken() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpSocket::new_v4().unwrap();
        client.set_recv_buffer_size(4_096).unwrap();
        let mut client = client.connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let pace = Arc::new(Pace::default());
        let mut paced = PacedStream::new(stream, pace.clone(), CancellationToken::new());
        drop(pace.begin(false).await);
        while !is_pending(pin!(paced.write(&vec![0; 65_536]))).await {}
        {
            let mut begun = pin!(pace.begin(false));
            assert!(is_pending(begun.as_mut()).await, "the client takes nothing");
            let reading =
                tokio::spawn(async move { tokio::io::copy(&mut client, &mut tokio::io::sink()).await });
            paced.write_all(b"the rest").await.unwrap();
            paced.flush().await.unwrap();
            assert!(!is_pending(begun).await, "the client has taken it");
            drop(paced);
            reading.await.unwrap().unwrap();
        }
    }
}
