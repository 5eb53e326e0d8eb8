//! A Postgres with a standby, and one address that leads to the primary, as a load balancer or a managed service has it.

use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;

use nix::sys::signal::Signal;

use crate::external_store::ExternalStore;
use crate::wait::until;

/// A standby needs as many connections as its primary.
pub const SETTINGS: [&str; 1] = ["max_connections=200"];

/// How commits treat the standby.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replication {
    Synchronous,
    Asynchronous,
}

/// A primary and a standby. The program's role is no superuser.
pub struct PostgresGroup {
    pub primary: ExternalStore,
    pub standby: Option<ExternalStore>,
    address: Address,
}

impl PostgresGroup {
    pub async fn start(replication: Replication) -> Self {
        let primary = ExternalStore::postgres(&SETTINGS).await;
        primary.psql("create role shop login").unwrap();
        primary.psql("grant create on database postgres to shop").unwrap();
        let address = Address::of(&primary);
        let mut group = Self { primary, standby: None, address };
        group.add_standby(replication).await;
        group
    }

    /// Lets the program read which commits a promoted standby has.
    pub fn grant(&self) {
        self.primary.psql("grant execute on function pg_read_file(text) to shop").unwrap();
    }

    /// Adds a standby to the present primary.
    pub async fn add_standby(&mut self, replication: Replication) {
        let standby = self.primary.standby(&SETTINGS).await;
        let names = if replication == Replication::Synchronous { "*" } else { "" };
        self.primary.psql(&format!("alter system set synchronous_standby_names = '{names}'")).unwrap();
        self.primary.psql("select pg_reload_conf()").unwrap();
        let state = if replication == Replication::Synchronous { "sync" } else { "async" };
        let state = format!(
            "select count(*) from pg_stat_replication where state = 'streaming' and sync_state = '{state}'"
        );
        until("the standby follows", async || (self.primary.psql(&state).ok()? == "1").then_some(())).await;
        self.standby = Some(standby);
    }

    pub fn url(&self) -> String {
        format!("postgres://shop@127.0.0.1:{}/postgres", self.address.port)
    }

    /// Promotes the standby; the address leads to it from now on. Returns the old primary, which may be dead.
    pub async fn fail_over(&mut self) -> ExternalStore {
        let standby = self.standby.take().unwrap();
        // A standby does not inherit for whom its primary waited.
        standby.psql("alter system reset synchronous_standby_names").unwrap();
        standby.psql("select pg_reload_conf()").unwrap();
        until("the standby is promoted", async || {
            let promoted =
                standby.psql("select case when pg_is_in_recovery() then pg_promote() else true end");
            (promoted.ok()? == "t").then_some(())
        })
        .await;
        self.address.lead_to(&standby);
        std::mem::replace(&mut self.primary, standby)
    }

    /// Kills the primary as the death of its machine does: all its processes at once.
    pub fn kill_primary(&self) {
        self.primary.signal(Signal::SIGKILL);
        self.address.cut();
    }

    /// Waits until the standby has everything that the primary has.
    pub async fn until_standby_has_all(&self) {
        let behind = "select count(*) from pg_stat_replication where flush_lsn < pg_current_wal_flush_lsn()";
        until("the standby has everything", async || (self.primary.psql(behind).ok()? == "0").then_some(()))
            .await;
    }
}

/// A port on loopback whose connections go to one Postgres at a time.
struct Address {
    port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    socket: Mutex<PathBuf>,
    connections: Mutex<Vec<TcpStream>>,
}

impl Address {
    fn of(postgres: &ExternalStore) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared { socket: Mutex::new(socket(postgres)), connections: Mutex::default() });
        thread::spawn({
            let shared = shared.clone();
            move || listener.incoming().for_each(|client| shared.connect(client.unwrap()))
        });
        Self { port, shared }
    }

    /// New connections go there; open ones stay.
    fn lead_to(&self, postgres: &ExternalStore) {
        *self.shared.socket.lock().unwrap() = socket(postgres);
    }

    fn cut(&self) {
        for connection in self.shared.connections.lock().unwrap().drain(..) {
            drop(connection.shutdown(Shutdown::Both));
        }
    }
}

impl Shared {
    fn connect(&self, client: TcpStream) {
        let socket = self.socket.lock().unwrap().clone();
        // Nothing listens: the client's connection is closed.
        let Ok(server) = UnixStream::connect(socket) else { return };
        client.set_nodelay(true).unwrap();
        self.connections.lock().unwrap().push(client.try_clone().unwrap());
        let (mut from_client, mut to_client) = (client.try_clone().unwrap(), client);
        let (mut from_server, mut to_server) = (server.try_clone().unwrap(), server);
        thread::spawn(move || {
            drop(io::copy(&mut from_client, &mut to_server));
            drop(to_server.shutdown(Shutdown::Both));
        });
        thread::spawn(move || {
            drop(io::copy(&mut from_server, &mut to_client));
            drop(to_client.shutdown(Shutdown::Both));
        });
    }
}

fn socket(postgres: &ExternalStore) -> PathBuf {
    Path::new(postgres.dir.path()).join(".s.PGSQL.5432")
}
