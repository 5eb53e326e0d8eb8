//! Reads an event stream.

use reqwest::Response;
use serde_json::Value;

use crate::description::assert_describes_event;
use crate::sale::Sale;
use crate::wait::DEADLINE;

#[derive(Clone, Debug)]
pub struct Event {
    pub id: String,
    pub name: String,
    pub data: Value,
}

/// An open event stream.
pub struct EventReader {
    path: String,
    response: Response,
    received: String,
}

impl EventReader {
    /// Opens a stream, which must be answered 200.
    pub async fn open(sale: &Sale, path: &str, headers: &[(&str, &str)]) -> Self {
        let mut request = sale.client.get(format!("{}{path}", sale.url));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200, "{path}");
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { path: path.to_owned(), response, received: String::new() }
    }

    /// The next event; `None` when the server has ended the stream.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(end) = self.received.find("\n\n") {
                let event: String = self.received.drain(..end + 2).collect();
                let event = parse(&event);
                assert_describes_event(&self.path, &event.name, &event.data);
                return Some(event);
            }
            let chunk = tokio::time::timeout(DEADLINE, self.response.chunk());
            let chunk = chunk.await.expect("waited too long for an event").expect("the stream broke off")?;
            self.received.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }

    /// The next event that satisfies the condition, and those before it.
    pub async fn until(&mut self, what: &str, condition: impl Fn(&Event) -> bool) -> Vec<Event> {
        let mut events = Vec::new();
        loop {
            let event = self.next().await.unwrap_or_else(|| panic!("the stream ended before {what}"));
            events.push(event);
            if condition(&events[events.len() - 1]) {
                return events;
            }
        }
    }

    /// The events up to the first with this name.
    pub async fn until_named(&mut self, name: &str) -> Vec<Event> {
        self.until(name, |event| event.name == name).await
    }
}

fn parse(text: &str) -> Event {
    let field = |name: &str| {
        let lines: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix(name)).collect();
        assert_eq!(lines.len(), 1, "{name} in {text:?}");
        lines[0].to_owned()
    };
    let data = serde_json::from_str(&field("data: ")).unwrap();
    Event { id: field("id: "), name: field("event: "), data }
}
