//! Chromium and its driver: private processes with private profiles, which end with the test. After each test the
//! console of every page must be clean.

use std::future::Future;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use nix::sys::signal::Signal;
use support::{client, signal, temp_dir};
use tempfile::TempDir;
use thirtyfour::common::capabilities::chromium::ChromiumLikeCapabilities;
use thirtyfour::{DesiredCapabilities, LoggingPrefsLogLevel, WebDriver};

use crate::page::Page;

const STARTS_MAX: usize = 5;
const DRIVER_READY: &str = "was started successfully on port ";

/// Runs a test with a browser, then checks that no page has logged an error.
pub async fn with_browser<F: Future<Output = ()>>(test: impl FnOnce(Browser) -> F) {
    let browser = Browser::start();
    test(browser.clone()).await;
    browser.assert_clean_consoles().await;
}

/// A handle; the driver and all its windows end with the last one.
#[derive(Clone)]
pub struct Browser(std::sync::Arc<Driver>);

struct Driver {
    process: Child,
    port: u16,
    /// The driver makes the profiles here.
    _profiles: TempDir,
    windows: Mutex<Vec<WebDriver>>,
}

impl Browser {
    fn start() -> Self {
        // Installs the TLS provider without which no HTTP client can be made.
        drop(client());
        let started = (0..STARTS_MAX).find_map(|_| Driver::start());
        Self(std::sync::Arc::new(started.expect("chromedriver listens")))
    }

    /// Opens an address in a new window with its own profile, as on another machine.
    pub async fn open(&self, url: &str) -> Page {
        let mut wanted = DesiredCapabilities::chrome();
        // Root can have no sandbox; a container's /dev/shm is too small for the shared memory of several windows.
        let flags =
            ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--lang=en-GB"];
        for flag in flags.into_iter().chain(["--window-size=1440,1000", "--no-proxy-server"]) {
            wanted.add_arg(flag).unwrap();
        }
        wanted.set_browser_log_level(LoggingPrefsLogLevel::All).unwrap();
        let window = WebDriver::new(format!("http://127.0.0.1:{}", self.0.port), wanted).await.unwrap();
        self.0.windows.lock().unwrap().push(window.clone());
        let page = Page::new(window);
        page.go(url).await;
        page
    }

    /// Answers of the API that are no success, and a server that is away, are for the page to handle. Everything else
    /// that Chromium logs as a warning or an error is a defect of the page: exceptions, breaches of the content security
    /// policy, missing files.
    async fn assert_clean_consoles(&self) {
        let windows = self.0.windows.lock().unwrap().clone();
        for window in windows {
            let is_expected = |entry: &thirtyfour::BrowserLogEntry| {
                let is_request = entry.source.as_deref() == Some("network");
                !["SEVERE", "WARNING"].contains(&entry.level.as_str())
                    || is_request && ["/v1/", "net::ERR_"].iter().any(|part| entry.message.contains(part))
            };
            let mut entries = window.browser_log().await.unwrap();
            entries.retain(|entry| !is_expected(entry));
            assert!(entries.is_empty(), "the browser's console: {entries:#?}");
        }
    }
}

impl Driver {
    /// `None` if the driver has ended. It chooses a port that is free for IPv4, which another process may use for IPv6.
    fn start() -> Option<Self> {
        let profiles = temp_dir("seckill-browser-");
        let mut process = Command::new("chromedriver")
            .arg("--port=0")
            .env("TMPDIR", profiles.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver is installed: scripts/install-packages");
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let port = lines.map_while(Result::ok).find_map(|line| {
            let (_, port) = line.split_once(DRIVER_READY)?;
            port.trim_end_matches('.').parse().ok()
        });
        let Some(port) = port else {
            drop(process.wait());
            return None;
        };
        Some(Self { process, port, _profiles: profiles, windows: Mutex::default() })
    }
}

impl Drop for Driver {
    /// Also ends the windows of a test that has failed: the driver ends Chromium when its session is deleted.
    fn drop(&mut self) {
        for window in self.windows.get_mut().unwrap().drain(..) {
            if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port)) {
                let id = window.session_id();
                let request = format!("DELETE /session/{id} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n");
                drop(stream.write_all(request.as_bytes()));
                // The driver answers when Chromium has ended, and keeps the connection.
                drop(stream.read(&mut [0; 1024]));
            }
            // Its own drop would ask a second time.
            drop(window.leak());
        }
        signal(i32::try_from(self.process.id()).unwrap(), Signal::SIGTERM);
        drop(self.process.wait());
    }
}
