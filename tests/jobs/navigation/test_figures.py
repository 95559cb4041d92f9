"""What figures of agents say in words."""

from jobs.navigation.figures import Figures, all_figures, figures_of, words_of
from jobs.navigation.playing import Episode


def reached(share: float, episodes: int = 200) -> Figures:
    """Of episodes of which a share reached the goal."""
    good = round(share * episodes)
    return figures_of(
        [
            Episode(
                seed=seed,
                success=seed < good,
                total=float(seed < good),
                length=9,
                shortest=6,
                actions=(),
            )
            for seed in range(episodes)
        ]
    )


def said(greedy: float, sampled: float, chance: float, episodes: int = 200) -> str:
    shares = {"greedy": greedy, "sampled": sampled, "random": chance}
    return " ".join(words_of({name: reached(each, episodes) for name, each in shares.items()}))


def test_a_good_agent_needs_no_words():
    assert said(0.99, 0.995, 0.165) == ""
    assert said(1.0, 1.0, 1.0) == ""  # nothing can be better


def test_an_agent_no_better_than_chance_is_told_so():
    assert said(0.17, 0.2, 0.165).startswith("The agent is not surely better than chance")
    assert "better than chance" in said(0.6, 0.6, 0.2, episodes=4)  # too few to know
    assert "better than chance" not in said(0.1, 0.6, 0.2)


def test_an_agent_that_goes_round_in_circles_is_told_so():
    assert "--agent.memory gru" in said(0.29, 0.9, 0.165)
    assert "circles" not in said(0.9, 0.29, 0.165)


def test_the_shortest_path_stands_last_where_all_are_known():
    good = reached(0.5, 4)
    assert good.spl == 0.5 * 6 / 9
    episodes = [
        Episode(seed=1, success=True, total=1.0, length=8, shortest=length, actions=())
        for length in (4, 8)
    ]
    played = {"greedy": episodes, "sampled": episodes, "random": episodes}
    assert list(all_figures(played))[-1] == "shortest path"
    assert all_figures(played)["shortest path"].length == 6
    unknown = [*episodes, Episode(seed=2, success=True, total=1, length=8, shortest=-1, actions=())]
    assert "shortest path" not in all_figures({**played, "greedy": unknown})
