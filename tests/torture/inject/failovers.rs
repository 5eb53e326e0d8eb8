//! Faults of a group of Redis servers: a master fails over or wakes up late, a slot moves, most of those that name the
//! master are silent. Each waits until the group is whole again.

use std::collections::BTreeSet;

use nix::sys::signal::Signal;
use rand::seq::IndexedRandom;

use super::{FaultInjector, Outcome, stream};
use crate::cluster::{SERVER, wait};
use crate::group::{Group, Masters};
use crate::history::Spared;
use crate::stores::Redis;
use crate::workload::steady_coupons;

impl FaultInjector {
    /// Waits until every server is up, every master has a replica, and all claims are accepted.
    pub(super) async fn until_whole(&self) {
        let Some(group) = &self.cluster.group else { return };
        let whole = wait(async || {
            let masters = self.masters_of_all().await.ok()?;
            group.is_whole(&masters).then_some(())
        });
        whole.await.expect("the group of servers is whole again");
        self.cluster.until_ready().await;
    }

    fn group(&mut self) -> Result<&mut Group, String> {
        self.cluster.group.as_mut().ok_or_else(|| "Redis is one server".into())
    }

    fn masters(&self) -> Result<Masters, String> {
        match &self.cluster.stores.redis {
            Redis::Group(masters) => Ok(masters.clone()),
            Redis::Socket(_) => Err("Redis is one server".into()),
        }
    }

    /// The ports of the masters of all partitions, each once.
    async fn masters_of_all(&self) -> Result<Vec<u16>, String> {
        let masters = self.masters()?;
        let mut ports = BTreeSet::new();
        for partition in &self.cluster.stores.partitions {
            ports.insert(masters.find(*partition).await?);
        }
        Ok(ports.into_iter().collect())
    }

    /// Notes that since `began_us` only these partitions were away.
    fn spare_all_but(&mut self, away: &[i16], began_us: u64) {
        let stores = &self.cluster.stores;
        let coupons = steady_coupons().map(|coupon| coupon.id);
        let coupons = coupons.filter(|id| !away.contains(&stores.home(id))).map(str::to_owned).collect();
        self.spares = Some(Spared { span: self.workload.recorder.since(began_us), coupons });
    }

    /// A random partition, its master, and all partitions of that master.
    async fn random_master(&mut self) -> Result<(i16, u16, Vec<i16>), String> {
        let partition = self.random_partition();
        let masters = self.masters()?;
        let port = masters.find(partition).await?;
        let mut away = Vec::new();
        for other in &self.cluster.stores.partitions {
            if masters.find(*other).await? == port {
                away.push(*other);
            }
        }
        Ok((partition, port, away))
    }

    /// Waits until another master is named, and the partition is rebuilt there.
    async fn until_failed_over(&self, partition: i16, from: u16) -> Outcome {
        let masters = self.masters()?;
        let promoted = wait(async || masters.find(partition).await.ok().filter(|port| *port != from));
        promoted.await.ok_or("no replica was promoted")?;
        self.cluster.until_ready().await.ok_or_else(|| "claims are not accepted after the failover".into())
    }

    pub(super) async fn kill_master(&mut self) -> Outcome {
        let (partition, port, away) = self.random_master().await?;
        let began_us = self.workload.recorder.now_us();
        self.group()?.kill_9(port);
        let outcome = self.until_failed_over(partition, port).await;
        self.spare_all_but(&away, began_us);
        self.group()?.start_again(port);
        self.until_whole().await;
        outcome
    }

    /// The master wakes up when another one has its place, and may accept what waits in its sockets.
    pub(super) async fn stop_master(&mut self) -> Outcome {
        let (partition, port, away) = self.random_master().await?;
        let began_us = self.workload.recorder.now_us();
        self.group()?.signal(port, Signal::SIGSTOP);
        let outcome = self.until_failed_over(partition, port).await;
        self.spare_all_but(&away, began_us);
        self.group()?.signal(port, Signal::SIGCONT);
        self.until_whole().await;
        outcome
    }

    /// A server that starts now sees a minority only: it must not accept claims, nor rebuild.
    pub(super) async fn pause_majority(&mut self) -> Outcome {
        let masters = self.masters_of_all().await?;
        let asked = match self.group()? {
            Group::Cluster(cluster) => cluster.masters(masters[0]),
            Group::Sentinels(_) => masters,
        };
        self.cluster.nodes[SERVER].kill_9();
        let epochs = "select string_agg(epoch, ' ' order by partition) from fence";
        let before = self.cluster.stores.psql(epochs).await?;
        self.group()?.signal_most(&asked, Signal::SIGSTOP);
        self.cluster.start_node(SERVER);
        let told = wait(async || {
            let log = self.cluster.nodes[SERVER].log();
            (log.contains("no majority of the") || log.contains("fence up")).then_some(())
        });
        let told = told.await.ok_or_else(|| "the server did not search for the master".to_owned());
        self.sleep(500..2_000).await;
        let after = self.cluster.stores.psql(epochs).await;
        if self.cluster.nodes[SERVER].log().contains("fence up") {
            self.broken.push("a server that sees a minority accepted claims".into());
        }
        self.group()?.signal_most(&asked, Signal::SIGCONT);
        if after.is_ok_and(|after| after != before) {
            self.broken.push("a partition was rebuilt while only a minority could be seen".into());
        }
        self.until_whole().await;
        told
    }

    pub(super) async fn move_slot(&mut self) -> Outcome {
        let partition = self.random_partition();
        let source = self.masters()?.find(partition).await?;
        let Group::Cluster(cluster) = self.group()? else { return Err("no cluster".into()) };
        let others: Vec<u16> = cluster.masters(source).into_iter().filter(|port| *port != source).collect();
        let target = *others.choose(&mut self.rng).ok_or("the cluster has one master")?;
        let key = stream(partition);
        let began_us = self.workload.recorder.now_us();
        let Group::Cluster(cluster) = self.group()? else { return Err("no cluster".into()) };
        let slot_move = cluster.begin_move(&key, target);
        cluster.move_keys(&slot_move).await;
        cluster.end_move(&slot_move);
        let masters = self.masters()?;
        let moved = wait(async || (masters.find(partition).await == Ok(target)).then_some(()));
        moved.await.ok_or("the slot did not move")?;
        let ready = self.cluster.until_ready().await;
        self.spare_all_but(&[partition], began_us);
        ready.ok_or_else(|| "claims are not accepted at the new master".into())
    }
}
