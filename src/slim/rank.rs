//! Which channels go: by importance, in each group or in all of them together.

use super::cut::{each_row, find, finite, vector};
use super::{ChannelPruner, Importance, Kept, share};
use crate::model::Model;
use crate::nn::Channels;
use crate::prune::norm;
use crate::{Error, Float, Result};

/// How much each channel of each group matters; nothing for a group that may not lose any.
pub(super) type Scores = Vec<Option<Vec<f64>>>;

/// Importance that the weights say.
pub(super) fn of_weights<T: Float>(
    model: &Model<T>,
    channels: &Channels,
    open: &[bool],
    by: Importance,
) -> Result<Scores> {
    let groups = channels.groups.iter().zip(open).map(|(group, open)| {
        if !open {
            return Ok(None);
        }
        let mut scores = vec![0.0_f64; group.len];
        if by == Importance::BatchNormScale {
            for name in &group.scales {
                // Flattened maps have as many scales a channel as a map has places.
                let spread =
                    group.vectors.iter().find(|(vector, _)| vector == name).map(|(_, spread)| *spread);
                for (i, scale) in vector(model, name)?.iter().enumerate() {
                    let channel = spread.map_or(i, |spread| spread.channel(i));
                    scores[channel] += scale.abs();
                }
            }
            return Ok(Some(scores));
        }
        for name in &group.rows {
            let rows = each_row(&*find(model, name)?, &mut |r, row| {
                finite(row, r * row.len())?;
                scores[r] = match by {
                    Importance::L1 => scores[r] + row.iter().map(|x| x.widen().abs()).sum::<f64>(),
                    _ => scores[r].hypot(norm(row)),
                };
                Ok(())
            });
            rows.map_err(|fault| Error::weight(name, fault))?;
        }
        Ok(Some(scores))
    });
    groups.collect()
}

impl ChannelPruner {
    /// The channels that stay, if the least important go. `in_means` counts scores of a group in their mean where
    /// groups are ranked together.
    pub(super) fn choose(&self, fraction: f64, scores: &Scores, in_means: bool) -> Vec<Kept> {
        if !self.global {
            let of_group = |scores: &Option<Vec<f64>>| {
                let Some(scores) = scores else { return Kept::new() };
                let gone = scores.len() - self.stay(scores.len(), share(fraction, scores.len()));
                without(scores, &ascending(scores)[..gone])
            };
            return scores.iter().map(of_group).collect();
        }
        let mut ranking: Vec<(f64, usize, usize)> = Vec::new();
        for (group, scores) in scores.iter().enumerate() {
            let Some(scores) = scores else { continue };
            let mean = scores.iter().sum::<f64>() / scores.len().max(1) as f64;
            let unit = if in_means && mean > 0.0 { mean } else { 1.0 };
            ranking.extend(scores.iter().enumerate().map(|(i, score)| (score / unit, group, i)));
        }
        ranking.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut left = share(fraction, ranking.len());
        let mut gone = vec![Vec::new(); scores.len()];
        for (_, group, channel) in ranking {
            let len = scores[group].as_ref().map_or(0, Vec::len);
            let may_go = len.saturating_sub(self.at_least);
            if left > 0 && gone[group].len() < may_go {
                gone[group].push(channel);
                left -= 1;
            }
        }
        let of_group = |(scores, gone): (&Option<Vec<f64>>, &Vec<usize>)| {
            let Some(scores) = scores else { return Kept::new() };
            // Rounding brings back those that matter most.
            without(scores, &gone[..scores.len() - self.stay(scores.len(), gone.len())])
        };
        scores.iter().zip(&gone).map(of_group).collect()
    }
}

/// Channels, least important first; the first of equals come first.
fn ascending(scores: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*a].total_cmp(&scores[*b]));
    order
}

fn without(scores: &[f64], gone: &[usize]) -> Kept {
    let mut kept = vec![true; scores.len()];
    gone.iter().for_each(|channel| kept[*channel] = false);
    kept
}
