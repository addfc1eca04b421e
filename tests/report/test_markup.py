from hcnr.report.drawing.markup import Markup, element, join


def test_text_and_attributes_are_escaped_and_markup_is_not():
    inner = element("b", '1 < 2 & "3"')
    assert inner == "<b>1 &lt; 2 &amp; &quot;3&quot;</b>"
    assert element("p", inner, title='"><script>') == (
        '<p title="&quot;&gt;&lt;script&gt;"><b>1 &lt; 2 &amp; &quot;3&quot;</b></p>'
    )
    assert join("<", Markup("<br>"), None) == "&lt;<br>"


def test_attribute_names_and_values():
    made = element("path", class_="line", fill_opacity=0.125, x=2.0, viewBox="0 0 1 1", open=True,
                   id=None)  # fmt: skip
    assert made == '<path class="line" fill-opacity="0.12" x="2" viewBox="0 0 1 1" open></path>'


def test_void_elements_have_no_end():
    assert element("meta", charset="utf-8") == '<meta charset="utf-8">'
