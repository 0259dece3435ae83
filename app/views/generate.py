"""Text in, images out: each judged, the wrong ones drawn again, every one marked AI-generated; to be stopped at any time, and taken away."""

from __future__ import annotations

import streamlit as st

from app import drawing, frame, wording, wording_synthetic
from stages.diffusion.prompts import render_prompts
from stages.runtime.errors import UserError

POLL = 1.0  # seconds between two looks at a drawing under way


def show(choice: frame.Choice) -> None:
    """The whole view."""
    place, card, key = choice.place, choice.card, f"drawing {choice.place.name}"
    st.title("Draw images")
    frame.phantom_warning(choice)
    st.markdown(wording_synthetic.NO_PATIENT)
    current: drawing.Drawing | None = st.session_state.get(key)
    running = current is not None and current.running
    try:
        drawing.require(place, card)
        if order := ask(choice, running):
            st.session_state[key] = drawing.start(place, card, *order)
            st.rerun()
    except UserError as error:
        st.error(str(error), icon=":material/error:")
    if current is not None:
        # Of a drawing that has ended nothing changes any more, so that nobody needs to look again.
        st.fragment(watch, run_every=POLL if running else None)(current, running)


def ask(choice: frame.Choice, running: bool) -> tuple[str, int, int] | None:
    """The order, once it is given: text, number of images, start number."""
    learned = drawing.rare(choice.place, choice.card)
    titles = {key: entry.title for key, entry in choice.card.classes.items()}
    groups = {
        "Learned from real images of it": [titles[key] for key, done in learned.items() if done],
        "Not learned yet, so it cannot be drawn": [titles[key] for key, done in learned.items() if not done],
        "Drawn by the general generator alone": [title for key, title in titles.items() if key not in learned],
    }
    first = next(iter([key for key, done in learned.items() if done] or titles))
    with st.form("order"):
        text = st.text_input(
            "What to draw",
            render_prompts(choice.card.prompts[first], {}, titles[first])[0],
            max_chars=300,
            help="Name one diagnosis. Words that the generator does not know change little; they are named below the drawing.",
        )
        left, right = st.columns(2)
        count = left.number_input("How many images", 1, drawing.MOST, 4)
        seed = right.number_input("Start number", 0, 999_999, 0, help="The same number draws the same images again, another one draws others.")
        given = st.form_submit_button("Draw", disabled=running)
    frame.small(" ".join(f"{what}: {wording.listed(names, 'and')}." for what, names in groups.items() if names))
    return (text, int(count), int(seed)) if given else None


def watch(current: drawing.Drawing, expected: bool) -> None:
    """How far a drawing is, with the button that ends it, and its images; `expected` to be running still: otherwise the form above is told."""
    running = current.running
    if expected and not running:
        st.rerun()
    pictures = current.pictures()
    done = len(pictures or ())
    st.header("The drawing")
    st.markdown(f"“{wording.plain(current.text)}”")
    if running:
        left = current.seconds_left(done)
        told = "loading the generator" if pictures is None else f"{done} of {current.count} done"
        st.progress(done / current.count, f"{wording.heading(told)}{f', about {wording_synthetic.duration(left)} left' if left else ''}")
        if st.button("Stop drawing", icon=":material/stop_circle:"):
            current.stop()
            st.rerun()
    elif error := current.error():
        st.error(wording.plain(error), icon=":material/error:")
    elif current.stopped:
        st.info(f"Stopped: {done} of {current.count} done.", icon=":material/stop_circle:")
    for warning in current.warnings():
        st.warning(wording.plain(wording.heading(warning)), icon=":material/warning:")
    if pictures:
        show_pictures(pictures)
        if not running:
            st.download_button("Take all images (ZIP)", current.archive, "rarelens-ai-generated.zip", "application/zip", on_click="ignore")
            frame.small(
                "In the folder look, each picture says in itself that AI made it: pass on these. The folder train has the images as they were drawn, "
                "for training, where only the file says so (IPTC digital source type), and a list that names the tries and what the judge said."
            )


def show_pictures(pictures: list[drawing.Drawn]) -> None:
    """Accepted images first, then those that nobody judged, then those that stayed wrong after the last try."""
    titles = {"": "Accepted", drawing.UNJUDGED: "Drawn, not judged"}
    groups: dict[str, list[drawing.Drawn]] = {}
    for picture in sorted(pictures, key=lambda p: [*titles, p.reason].index(p.reason)):
        groups.setdefault(titles.get(picture.reason, "Not accepted after the last try"), []).append(picture)
    for title, own in groups.items():
        seen = [p for p in own if p.image is not None]
        if own:
            st.subheader(f"{title}: {len(own)}")
        if seen:
            frame.generated([p.image for p in seen if p.image is not None], [wording_synthetic.drawn(p.probability, p.tries, p.reason) for p in seen])


show(frame.chosen())
