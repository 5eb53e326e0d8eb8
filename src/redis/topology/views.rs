//! What one node of a cluster, or one Sentinel, says about the master, and about the others that may say so.

use std::collections::BTreeMap;

use fred::types::Value;

use super::super::connection::Connection;
use super::super::{RedisError, array, text};
use super::{Node, port};

/// The answer of one node or Sentinel.
#[derive(Clone, Debug)]
pub(super) struct View {
    /// The id of the node or Sentinel itself.
    pub(super) id: String,
    /// Who has a vote: the masters that own slots, or the Sentinels; by id.
    pub(super) members: BTreeMap<String, Node>,
    /// The master that it names: its id (for Sentinels, its address), and where it is.
    pub(super) master: Option<(String, Node)>,
}

/// Reads `CLUSTER SLOTS` of a node.
pub(super) async fn of_cluster_node(
    connection: &Connection,
    node: &Node,
    slot: u16,
) -> Result<View, RedisError> {
    let id = text(&connection.call("CLUSTER", vec!["MYID".into()]).await?);
    let id = id.ok_or_else(|| RedisError::Reply("CLUSTER MYID: no id".into()))?;
    let mut view = View { id, members: BTreeMap::new(), master: None };
    for range in slots(connection, node).await? {
        if range.first <= slot && slot <= range.last {
            view.master = Some(range.master.clone());
        }
        let (id, at) = range.master;
        view.members.insert(id, at);
    }
    Ok(view)
}

/// A range of slots with one master.
pub(super) struct SlotRange {
    pub(super) first: u16,
    pub(super) last: u16,
    pub(super) master: (String, Node),
    /// Replicas that do not fail.
    pub(super) replicas: usize,
}

pub(super) async fn slots(connection: &Connection, asked: &Node) -> Result<Vec<SlotRange>, RedisError> {
    let what = "CLUSTER SLOTS";
    let mut ranges = Vec::new();
    for range in array(connection.call("CLUSTER", vec!["SLOTS".into()]).await?, what)? {
        let range = array(range, what)?;
        let [first, last, master, replicas @ ..] = range.as_slice() else {
            return Err(RedisError::Reply(format!("{what}: a range of {} values", range.len())));
        };
        let owner = array(master.clone(), what)?;
        let [host, at, id, ..] = owner.as_slice() else {
            return Err(RedisError::Reply(format!("{what}: a node of {} values", owner.len())));
        };
        // No host means: the one at which the node was asked.
        let host = text(host).filter(|host| !host.is_empty() && host != "?");
        let at = Node { host: host.unwrap_or_else(|| asked.host.clone()), port: port(at, what)? };
        ranges.push(SlotRange {
            first: port(first, what)?,
            last: port(last, what)?,
            master: (text(id).unwrap_or_default(), at),
            replicas: replicas.len(),
        });
    }
    Ok(ranges)
}

/// Reads which master a Sentinel names, and which other Sentinels it knows.
pub(super) async fn of_sentinel(
    connection: &Connection,
    node: &Node,
    service: &str,
) -> Result<View, RedisError> {
    let call = async |args: &[&str]| {
        connection.call("SENTINEL", args.iter().map(|arg| Value::from(*arg)).collect()).await
    };
    let id = text(&call(&["MYID"]).await?);
    let id = id.ok_or_else(|| RedisError::Reply("SENTINEL MYID: no id".into()))?;
    let master =
        array(call(&["GET-MASTER-ADDR-BY-NAME", service]).await?, "SENTINEL GET-MASTER-ADDR-BY-NAME")?;
    let master = match master.as_slice() {
        [host, at] => {
            let at = Node { host: text(host).unwrap_or_default(), port: port(at, "SENTINEL master")? };
            Some((at.to_string(), at))
        }
        _ => return Err(RedisError::Refused(format!("this Sentinel knows no master named {service}"))),
    };
    let mut members = BTreeMap::from([(id.clone(), node.clone())]);
    for other in array(call(&["SENTINELS", service]).await?, "SENTINEL SENTINELS")? {
        let fields = pairs(other, "SENTINEL SENTINELS")?;
        let field = |name: &str| fields.get(name).cloned().unwrap_or_default();
        let at = field("port").parse().ok();
        let at = at.ok_or_else(|| RedisError::Reply("SENTINEL SENTINELS: no port".into()))?;
        members.insert(field("runid"), Node { host: field("ip"), port: at });
    }
    Ok(View { id, members, master })
}

/// Names and values of a flat list.
pub(super) fn pairs(value: Value, what: &str) -> Result<BTreeMap<String, String>, RedisError> {
    let values = array(value, what)?;
    let pair = |pair: &[Value]| Some((text(&pair[0])?, text(&pair[1])?));
    Ok(values.chunks_exact(2).filter_map(pair).collect())
}
