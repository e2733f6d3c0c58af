import pytest
from pydantic import ValidationError

from emo_ray.config.setting import NOTHING, Section, by_content, by_value, setting


class Oven(Section, decides=by_value("bread"), owner="caller", in_recipe=False):
    heat_c: int = setting(220, "Heat in degrees Celsius.", ge=50)
    racks: int = setting(1, "Racks in use; 0 is 1.", decides=by_value("bread", "cake"), normalised=lambda n: max(1, n))
    light: bool = setting(True, "Whether the light is on.", decides=NOTHING, owner="checkpoint")
    recipe: str | None = setting(None, "File of the recipe.", decides=by_content("bread"), path=True)


class Grill(Oven, decides=by_value("toast")):
    gas: bool = setting(False, "Whether it burns gas.")


class Careless(Section):
    plain: int = 0
    silent: int = setting(0, "Says nothing of what it decides.")


def test_a_setting_is_a_field_with_default_bounds_and_description():
    assert Oven().heat_c == 220
    assert Oven.model_fields["heat_c"].description == "Heat in degrees Celsius."
    with pytest.raises(ValidationError, match="greater than or equal to 50"):
        Oven(heat_c=20)


def test_a_section_speaks_for_its_settings_and_a_setting_for_itself():
    heat, light, recipe = (Oven.declaration(name) for name in ("heat_c", "light", "recipe"))
    assert (heat.decides, heat.owner, heat.in_recipe, heat.path) == (by_value("bread"), "caller", False, False)
    assert (light.decides, light.owner) == (NOTHING, "checkpoint")
    assert (recipe.decides, recipe.path) == (by_content("bread"), True)


def test_a_subsection_inherits_what_it_does_not_say():
    assert Grill.declaration("heat_c").decides == Grill.declaration("gas").decides == by_value("toast")
    assert Grill.declaration("gas").owner == "caller"
    assert Oven.declaration("heat_c").decides == by_value("bread")
    assert Grill.declaration("light").decides == NOTHING


def test_deciding_values_are_normalised_and_others_left_out():
    assert Oven(racks=0, recipe="a.txt").deciding("bread") == {"heat_c": 220, "racks": 1}
    assert Oven(racks=2).deciding("cake") == {"racks": 2}
    assert Oven().deciding("soup") == {}


@pytest.mark.parametrize("name", ["plain", "silent"])
def test_a_setting_that_does_not_say_what_it_decides_is_our_mistake(name):
    with pytest.raises(TypeError, match=f"Careless.{name}"):
        Careless.declaration(name)
