//! Counts who names which master.

use std::collections::{BTreeMap, BTreeSet};

use super::super::RedisError;
use super::Node;
use super::views::View;

/// The answers of one search.
#[derive(Default)]
pub(super) struct Votes {
    /// By the id of the node or Sentinel: one that has two addresses counts once.
    views: BTreeMap<String, View>,
    /// At least so many may vote, even if no answer names them.
    least_members: usize,
    failures: Vec<String>,
}

impl Votes {
    pub(super) fn new(least_members: usize) -> Self {
        Self { least_members, ..Self::default() }
    }

    pub(super) fn add(&mut self, view: View) {
        self.views.insert(view.id.clone(), view);
    }

    pub(super) fn add_failure(&mut self, node: &Node, error: &RedisError) {
        self.failures.push(format!("{node}: {error}"));
    }

    /// The master that more than half of all members name. A member that any answer names counts.
    pub(super) fn majority(&self) -> Option<Node> {
        let (count, id, node) = self.most_named()?;
        // The address that others know is the one that clients reach; a node may not know its own.
        let others = self.voters().filter(|view| view.id != id);
        let known = others.filter_map(|view| view.master.as_ref()).find(|(named, _)| named == id);
        (2 * count > self.members()).then(|| known.map_or(node, |(_, node)| node).clone())
    }

    fn most_named(&self) -> Option<(usize, &str, &Node)> {
        let mut named: BTreeMap<&str, (usize, &Node)> = BTreeMap::new();
        for (id, node) in self.voters().filter_map(|view| view.master.as_ref()) {
            named.entry(id).or_insert((0, node)).0 += 1;
        }
        let most = named.into_iter().max_by_key(|(_, (count, _))| *count)?;
        Some((most.1.0, most.0, most.1.1))
    }

    fn voters(&self) -> impl Iterator<Item = &View> {
        self.views.values().filter(|view| view.members.contains_key(&view.id))
    }

    fn members(&self) -> usize {
        let ids: BTreeSet<&String> = self.views.values().flat_map(|view| view.members.keys()).collect();
        ids.len().max(self.least_members)
    }

    /// How many answered and what they said, for the operator.
    pub(super) fn summary(&self) -> String {
        let named = match self.most_named() {
            Some((count, _, node)) => format!("{count} of {} name {node}", self.members()),
            None => format!("none of {} names one", self.members()),
        };
        std::iter::once(named).chain(self.failures.iter().cloned()).collect::<Vec<_>>().join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(port: u16) -> Node {
        Node { host: "h".into(), port }
    }

    fn view(id: &str, members: &[&str], master: Option<&str>) -> View {
        let port = |id: &str| id.bytes().map(u16::from).sum();
        View {
            id: id.into(),
            members: members.iter().map(|id| ((*id).to_owned(), node(port(id)))).collect(),
            master: master.map(|id| (id.to_owned(), node(port(id)))),
        }
    }

    fn named(least_members: usize, views: impl IntoIterator<Item = View>) -> Option<Node> {
        let mut votes = Votes::new(least_members);
        views.into_iter().for_each(|view| votes.add(view));
        votes.majority()
    }

    #[test]
    fn more_than_half_of_all_known_masters_must_agree() {
        let abc = ["a", "b", "c"];
        let a = || view("a", &abc, Some("a"));
        assert_eq!(named(0, [a()]), None, "one of three");
        assert_eq!(named(0, [a(), a()]), None, "the same node asked at two addresses");
        assert_eq!(named(0, [a(), view("b", &abc, Some("a"))]), Some(node(97)));
        assert_eq!(named(0, [a(), view("b", &abc, None)]), None, "one has no owner of the slot");
    }

    #[test]
    fn an_old_master_that_still_names_itself_is_outvoted() {
        let (old, new) = (["a", "b", "c"], ["b", "c", "d"]);
        let [a, d] = [view("a", &old, Some("a")), view("d", &new, Some("d"))];
        let [b, c] = ["b", "c"].map(|id| view(id, &new, Some("d")));
        let late = view("c", &old, Some("a"));
        assert_eq!(named(0, [a.clone(), b.clone(), late, d.clone()]), None, "two against two");
        assert_eq!(named(0, [a, b, c, d]), Some(node(100)));
    }

    #[test]
    fn a_replica_has_no_vote_and_a_silent_sentinel_counts() {
        let replica = view("r", &["a", "b", "c"], Some("a"));
        assert_eq!(named(0, [replica, view("a", &["a", "b", "c"], Some("a"))]), None);
        assert_eq!(named(3, [view("s", &["s"], Some("m"))]), None, "a Sentinel that knows no other one");
        assert_eq!(named(1, [view("s", &["s"], Some("m"))]), Some(node(109)));
    }
}
