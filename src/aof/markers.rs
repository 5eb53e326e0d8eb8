//! The epoch marker and the WAL position during a replay.

use bytes::Bytes;

use super::Place;
use super::state::State;
use super::stream::Misfit;

impl State {
    /// A rebuild begins with a higher epoch, and ends with the same one.
    pub(super) fn mark(&mut self, words: &[Bytes], place: Place) -> Result<(), Misfit> {
        let [marker] = words else { return Err("SET has another form".into()) };
        let marker = String::from_utf8_lossy(marker).into_owned();
        let counter = |marker: &str| -> Option<u64> {
            let (number, random) = marker.split_once(':')?.1.split_once('-')?;
            let is_hex = !random.is_empty() && random.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            number.parse().ok().filter(|_| is_hex)
        };
        let now = counter(&marker).ok_or("the marker has another form")?;
        let before = self.marker.take();
        let epoch = |marker: &str| marker.split_once(':').map(|(_, epoch)| epoch.to_owned());
        match (&before, marker.split(':').next()) {
            (_, Some("building")) => {
                if before.as_ref().and_then(|(before, _)| counter(before)).is_some_and(|before| now < before)
                {
                    return Err("a rebuild begins with a lower epoch".into());
                }
            }
            // The base file has only the last marker.
            (None, Some("ready")) => {}
            (Some((building, built_at)), Some("ready")) if building.starts_with("building:") => {
                if epoch(building) != epoch(&marker) {
                    let is_right = epoch(&marker) == self.rules.epoch;
                    let earlier = is_right.then_some(*built_at);
                    let why = "a rebuild ends with another epoch than it began".into();
                    return Err(Misfit { why, earlier, if_delivered: None });
                }
            }
            _ => return Err("the marker has another form".into()),
        }
        self.marker = Some((marker, place));
        Ok(())
    }

    /// The position of Postgres's WAL grows, in steps of 4 bytes at least.
    pub(super) fn record_position(
        &mut self,
        words: &[Bytes],
        place: Place,
        is_strict: bool,
    ) -> Result<(), Misfit> {
        let [position] = words else { return Err("SET has another form".into()) };
        let text = String::from_utf8_lossy(position).into_owned();
        let is_half =
            |half: &str| half.len() == 8 && half.bytes().all(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F'));
        let is_aligned = text.ends_with(['0', '4', '8', 'C']);
        if !text.split_once('/').is_some_and(|(high, low)| is_half(high) && is_half(low)) || !is_aligned {
            return Err("not a WAL position".into());
        }
        // Two positions are in the wrong order: the next one shows which of them is wrong.
        if let Some((fallen_from, earlier, later)) = self.positions.fall.take() {
            let wrong = if text >= fallen_from { later } else { earlier };
            let why = "a WAL position out of order".into();
            return Err(Misfit { why, earlier: Some(wrong), if_delivered: None });
        }
        if is_strict
            && let Some((before, before_at)) = &self.position
            && text <= *before
        {
            if self.positions.before.as_ref().is_some_and(|oldest| text <= *oldest) {
                return Err("a WAL position below the one before it".into());
            }
            self.positions.fall = Some((before.clone(), *before_at, place));
        }
        self.positions.before = self.position.take().map(|(before, _)| before);
        self.position = Some((text, place));
        Ok(())
    }
}
