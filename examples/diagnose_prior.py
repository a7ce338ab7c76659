"""
What the prior does in trained agents: how far it moves what they do and what they learn, and whether it has settled.

    python examples/diagnose_prior.py results/minatar
    python examples/diagnose_prior.py results/atari --suite atari

For every finished SQL and MIRL run of an experiment, over the states that the agent meets as it acted in training
(epsilon included), mean over the seeds:

- beta gap: beta times the mean of max_a Q(s, a) - mean_a Q(s, a); far above "log rho range" the prior cannot matter
- log rho range: the largest log rho(a) less the smallest
- greedy changed: share of states in which argmax [log rho(a) + beta Q(s, a)] is not argmax Q(s, a)
- softness: (max_a Q - V) / (max_a Q - mean_a Q), V the soft value: 0 where the target is DQN's hard maximum
- I(S;A): how much actions depend on states, nats
- KKT gap: max_a E_s pi(a|s) / rho(a) - 1, 0 where the prior has settled

Writes prior_diagnosis.csv (one line per run) beside the runs.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import torch as th
from stable_baselines3.common.vec_env import VecEnv

from sb3_mirl import SoftDQN
from sb3_mirl.experiments import AGENTS, ATARI, MINATAR, Run
from sb3_mirl.experiments.results import markdown
from sb3_mirl.experiments.snapshots import write_csv
from sb3_mirl.maths import action_scores, boltzmann_log_probs, kkt_gap, mutual_information, soft_value
from sb3_mirl.plots import LABELS

SUITES = {suite.name: suite for suite in (MINATAR, ATARI)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of an experiment")
    parser.add_argument("--suite", choices=list(SUITES), default="minatar", help="(default: minatar)")
    parser.add_argument("--states", type=int, default=4000, help="per run (default: 4000)")
    args = parser.parse_args()
    rows = []
    for run in finished(args.out):
        model = AGENTS[run.agent][0].load(args.out / run.folder / "model", device="cpu")
        assert isinstance(model, SoftDQN)
        model.set_random_seed(0)
        q = action_values(model, SUITES[args.suite].make_env(run.game, 8, 0, True), args.states // 8)
        rows.append({**run._asdict(), **diagnosis(q, model.policy.log_prior, model.policy.beta)})
        print(run, flush=True)
    if not rows:
        sys.exit(f"There is no finished run of SQL or MIRL in {args.out}: run the experiment first.")
    table = pd.DataFrame(rows)
    write_csv(table, args.out / "prior_diagnosis.csv", "%.5g")
    means = table.drop(columns="seed").groupby(["game", "agent"]).mean()
    means.index = pd.Index([f"{game}, {LABELS[agent]}" for game, agent in means.index], name="game, agent")
    print(f"\n{markdown(means.map('{:.3g}'.format))}")


def finished(out: Path) -> Iterator[Run]:
    """Yield the runs of agents with a finite beta that came to their end."""
    for done in sorted(out.glob("cells/*/*/seed_*/done")):
        run = Run.of(done.parent)
        if run.agent in AGENTS and run.agent != "dqn" and issubclass(AGENTS[run.agent][0], SoftDQN):
            yield run


@th.no_grad()
def action_values(model: SoftDQN, env: VecEnv, steps: int) -> th.Tensor:
    """Return Q at the states of ``steps`` vector steps, (steps * n_envs, A)."""
    observations, values = env.reset(), []
    for _ in range(steps):
        tensor, _ = model.policy.obs_to_tensor(observations)
        values.append(model.q_net(tensor))
        actions, _ = model.predict(observations)
        observations, *_ = env.step(actions)
    env.close()
    return th.cat(values).double()


def diagnosis(q: th.Tensor, log_prior: th.Tensor, beta: th.Tensor) -> dict[str, float]:
    """Return the columns of the table; see the module."""
    gap = (q.amax(-1) - q.mean(-1)).mean()
    log_probs = boltzmann_log_probs(q, log_prior, beta)
    columns = {
        "beta": beta,
        "beta gap": beta * gap,
        "log rho range": log_prior.max() - log_prior.min(),
        "greedy changed": (action_scores(q, log_prior, beta).argmax(-1) != q.argmax(-1)).double().mean(),
        "softness": (q.amax(-1) - soft_value(q, log_prior, beta)).mean() / gap,
        "I(S;A)": mutual_information(log_probs),
        "KKT gap": kkt_gap(log_probs, log_prior),
    }
    return {name: value.item() for name, value in columns.items()}


if __name__ == "__main__":
    main()
