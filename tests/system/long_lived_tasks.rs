//! The tasks that run as long as the program: the effect of a task that ends early, and the answer of `/livez`.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use seckill::http::ApiSlot;
use seckill::http::server::{self, ServeStop};
use seckill::tasks::Tasks;
use tokio_util::sync::CancellationToken;

use support::{client, until};

fn new() -> (Tasks, CancellationToken) {
    (Tasks::default(), CancellationToken::new())
}

/// A task whose first tries fail, in turn by a return and by a panic; and a counter of its starts.
fn fails_at_first(
    tries: usize,
) -> (Arc<AtomicUsize>, impl FnMut() -> futures_util::future::BoxFuture<'static, ()> + Send) {
    let started = Arc::new(AtomicUsize::new(0));
    let counted = started.clone();
    let make = move || {
        let number = counted.fetch_add(1, Ordering::SeqCst);
        let work = async move {
            assert!(number >= tries || number.is_multiple_of(2), "its try {number} fails");
            if number >= tries {
                std::future::pending::<()>().await;
            }
        };
        Box::pin(work) as futures_util::future::BoxFuture<'static, ()>
    };
    (started, make)
}

#[tokio::test]
async fn a_task_that_panics_or_returns_is_started_again_and_is_named_until_then() {
    let (tasks, stop) = new();
    let (started, make) = fails_at_first(4);
    let task = tokio::spawn(tasks.supervise("fence", None, &stop, make));
    for (number, why) in [(1, "it returned"), (2, "it panicked (its try 1 fails)")] {
        let trouble = until("it is known to have ended", async || {
            let trouble = tasks.problem()?;
            (started.load(Ordering::SeqCst) == number).then_some(trouble)
        })
        .await;
        assert_eq!(trouble.task, "fence");
        assert!(trouble.to_string().contains(why), "{trouble}");
    }
    until("it runs", async || {
        (started.load(Ordering::SeqCst) == 5 && tasks.problem().is_none()).then_some(())
    })
    .await;
    assert_eq!(tasks.check(), Ok(()), "the program goes on");
    assert!(!tasks.failed().is_cancelled());
    task.abort();
    until("it is known to be cancelled", async || tasks.check().err()).await;
    assert!(tasks.failed().is_cancelled(), "a task that is not restarted any more ends the program");
}

#[tokio::test]
async fn a_required_task_that_ends_early_ends_the_program_with_its_name() {
    let verdict_of = async |end: futures_util::future::BoxFuture<'static, ()>| {
        let (tasks, stop) = new();
        tokio::spawn(tasks.require("HTTP", &stop, end)).await.unwrap();
        assert!(tasks.failed().is_cancelled());
        assert_eq!(tasks.problem().unwrap().task, "HTTP");
        tasks.check().unwrap_err().to_string()
    };
    let panics = Box::pin(async { panic!("provoked") });
    assert_eq!(verdict_of(panics).await, "the task `HTTP` has ended unexpectedly: it panicked (provoked)");
    assert_eq!(verdict_of(Box::pin(async {})).await, "the task `HTTP` has ended unexpectedly: it returned");
}

#[tokio::test]
async fn a_task_that_ends_after_a_stop_is_not_reported() {
    let (tasks, stop) = new();
    let stopped = stop.clone();
    let kept = tokio::spawn(tasks.supervise("worker", None, &stop, move || {
        let stopped = stopped.clone();
        async move { stopped.cancelled().await }
    }));
    let (_, make) = fails_at_first(usize::MAX);
    let failing = tokio::spawn(tasks.supervise("failing", None, &stop, make));
    until("one is about to be started again", async || tasks.problem()).await;
    stop.cancel();
    assert_eq!(kept.await.unwrap(), Some(()));
    assert_eq!(failing.await.unwrap(), None);
    assert_eq!((tasks.problem(), tasks.check()), (None, Ok(())));
    assert!(!tasks.failed().is_cancelled());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_is_stuck_is_named_until_it_moves_again() {
    let (tasks, stop) = new();
    let (release, released) = mpsc::channel::<()>();
    let released = Arc::new(std::sync::Mutex::new(released));
    drop(tokio::spawn(tasks.supervise("fence", Some(Duration::from_millis(200)), &stop, move || {
        let released = released.clone();
        async move {
            // Blocks its thread, like a write to a full pipe.
            released.lock().unwrap().recv().unwrap();
            loop {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    })));
    let trouble = until("it is known to be stuck", async || tasks.problem()).await;
    assert_eq!(trouble.task, "fence");
    assert!(trouble.what.contains("is stuck"), "{trouble}");
    release.send(()).unwrap();
    until("it moves again", async || tasks.problem().is_none().then_some(())).await;
    assert_eq!(tasks.check(), Ok(()));
}

#[tokio::test]
async fn livez_reports_the_tasks_and_names_the_one_that_has_ended() {
    let (tasks, stop) = new();
    let listener = server::listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let url = format!("http://{}/livez", listener.local_addr().unwrap());
    let mut serve_stop = ServeStop::default();
    serve_stop.token = stop.clone();
    let serving = server::serve(listener, Arc::new(ApiSlot::new(tasks.clone())), 100, serve_stop);
    drop(tokio::spawn(tasks.require("HTTP", &stop, serving)));
    let client = client();
    let livez = async || {
        let answer = client.get(&url).send().await.unwrap();
        (answer.status().as_u16(), answer.json::<serde_json::Value>().await.unwrap())
    };
    assert_eq!(livez().await, (200, serde_json::json!({"status": "ok"})));
    // Each try fails, and the pauses between the tries grow.
    let (_, make) = fails_at_first(usize::MAX);
    drop(tokio::spawn(tasks.supervise("fence", None, &stop, make)));
    let body = until("the task is named", async || {
        let (status, body) = livez().await;
        (status == 503).then_some(body)
    })
    .await;
    assert_eq!((&body["task"], &body["code"]), (&"fence".into(), &"unavailable".into()));
    assert!(body["detail"].as_str().unwrap().contains("`fence` has ended"), "{body}");
    assert_eq!(client.post(&url).send().await.unwrap().status().as_u16(), 405);
    stop.cancel();
}
